/** Figures of a session, for engineers. */

import { RATE } from "./pcm.js";

const WINDOW_MS = 5000;

export class Statistics {
  constructor() {
    /** @type {{at: number, bytes: number}[]} */
    this.messages = [];
    this.askedAt = NaN;
    this.firstFrameMs = NaN;
  }

  /** @param {number} bytes */
  addMessage(bytes) {
    const at = performance.now();
    this.messages.push({ at, bytes });
    while (this.messages[0].at < at - WINDOW_MS) this.messages.shift();
  }

  /** A request was sent. */
  ask() {
    this.askedAt = performance.now();
    this.firstFrameMs = NaN;
  }

  /** A frame of a response was received. */
  addFrame() {
    if (Number.isNaN(this.firstFrameMs)) this.firstFrameMs = performance.now() - this.askedAt;
  }

  /** Kilobits per second of the messages of the last seconds. */
  get kbitPerS() {
    const since = performance.now() - WINDOW_MS;
    const bytes = this.messages.reduce((sum, each) => sum + (each.at >= since ? each.bytes : 0), 0);
    return bytes * 8 / WINDOW_MS;
  }
}

/**
 * Returns the figures of a session; one that is not known is NaN.
 * @param {Statistics} figures
 * @param {import("./media.js").Media | null} media
 * @param {any} avatar Its settings in the session of the server.
 */
export function describe(figures, media, avatar) {
  const pictures = media?.file ?? media?.video;
  const since = performance.now() - 2000;
  return {
    firstFrameMs: figures.firstFrameMs,
    framesPerS: (pictures?.times.filter((at) => at > since).length ?? 0) / 2,
    skewMs: quantile((pictures?.skews ?? []).map(Math.abs), 0.95),
    received: media?.received ?? 0,
    receivedIdle: media?.receivedIdle ?? 0,
    drawn: pictures?.drawn ?? 0,
    drawnIdle: pictures?.drawnIdle ?? 0,
    dropped: pictures?.dropped ?? 0,
    playedS: (media?.playedSamples ?? 0) / RATE,
    underruns: media?.sound.underruns ?? 0,
    bufferedMs: (media?.bufferedS ?? 0) * 1000,
    kbitPerS: figures.kbitPerS,
    mode: avatar?.video?.mode ?? "",
    transport: avatar?.transport ?? "",
    flow: avatar?.flow?.mode ?? "",
    idle: avatar?.idle ?? "",
  };
}

/**
 * Returns a quantile of values, or NaN if there is none.
 * @param {readonly number[]} values
 * @param {number} share 0 to 1.
 * @returns {number}
 */
export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? NaN;
}
