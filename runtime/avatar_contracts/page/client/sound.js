/** Where the sound goes, and how much of it has been heard: the clock of a session. */

import { fromPcm16, RATE } from "./pcm.js";

/**
 * @typedef {object} Sound
 * @property {(samples: Int16Array) => void} push Plays samples after all others.
 * @property {() => void} complete Nothing follows soon: plays also a short rest.
 * @property {() => void} clear Stops at once; positions count from 0 again.
 * @property {() => number} position Samples that have been heard since the last `clear`.
 * @property {() => boolean} isSuspended Whether the browser does not let the page be heard.
 * @property {() => Promise<void>} resume After a gesture of the user.
 * @property {() => Promise<void>} close
 * @property {number} underruns How often the sound stopped for want of samples.
 * @property {() => void} onProgress More has been heard; also called in a hidden page, unlike timers.
 */

/** @typedef {{played: number, buffered: number, isPlaying: boolean, at: number}} Report */

const KEPT_REPORTS = 128;

/**
 * Sound through an AudioWorklet.
 * @implements {Sound}
 */
export class WorkletSound {
  /**
   * Loads the worklet.
   * @param {AudioContext} [given] Of 24 kHz. It stays open when the session ends.
   * @returns {Promise<WorkletSound>}
   */
  static async open(given) {
    const context = given ?? new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
    await context.audioWorklet.addModule(new URL("./playback-worklet.js", import.meta.url));
    return new WorkletSound(context, !given);
  }

  /**
   * @param {AudioContext} context
   * @param {boolean} isOwn Whether to close the context at the end.
   */
  constructor(context, isOwn) {
    this.context = context;
    this.isOwn = isOwn;
    this.node = new AudioWorkletNode(context, "avatar-playback", {
      numberOfInputs: 0, outputChannelCount: [1],
    });
    this.node.connect(context.destination);
    this.generation = 0;
    this.isComplete = true;
    this.underruns = 0;
    this.onProgress = () => {};
    /** @type {Report[]} */
    this.reports = [];
    this.node.port.onmessage = ({ data }) => this.#receive(data);
  }

  /** @param {Int16Array} samples */
  push(samples) {
    const floats = fromPcm16(samples);
    this.isComplete = false;
    this.node.port.postMessage({ generation: this.generation, samples: floats }, [floats.buffer]);
  }

  complete() {
    this.isComplete = true;
    this.node.port.postMessage({ generation: this.generation, complete: true });
  }

  clear() {
    this.generation++;
    this.isComplete = true;
    this.reports = [];
    this.node.port.postMessage({ generation: this.generation, clear: true });
  }

  position() {
    const latency = this.context.outputLatency || this.context.baseLatency || 0;
    const now = this.context.currentTime - latency;
    const index = this.reports.findLastIndex(({ at }) => at <= now);
    if (index < 0) return this.reports[0]?.played ?? 0;
    const { played, isPlaying, at } = this.reports[index];
    const heard = isPlaying ? played + (now - at) * this.context.sampleRate : played;
    return Math.min(heard, this.reports[index + 1]?.played ?? Infinity);
  }

  isSuspended() {
    return this.context.state !== "running";
  }

  async resume() {
    await this.context.resume();
  }

  async close() {
    this.node.disconnect();
    if (this.isOwn && this.context.state !== "closed") await this.context.close();
  }

  /** @param {Report & {generation: number}} report */
  #receive({ generation, ...report }) {
    if (generation !== this.generation) return;
    if (this.reports.at(-1)?.isPlaying && !report.isPlaying && !this.isComplete) this.underruns++;
    this.reports.push(report);
    if (this.reports.length > KEPT_REPORTS) this.reports.shift();
    this.onProgress();
  }
}

/**
 * Sound that nobody hears, for Node.js and for pages that play it themselves: a clock.
 * @implements {Sound}
 */
export class SilentSound {
  /** @param {() => number} [now] Seconds. */
  constructor(now = () => performance.now() / 1000) {
    this.now = now;
    this.underruns = 0;
    this.onProgress = () => {};
    this.pushed = 0;
    this.base = 0;
    this.at = now();
  }

  /** @param {Int16Array} samples */
  push(samples) {
    const heard = this.position();
    if (heard === this.pushed) {
      this.base = heard;
      this.at = this.now();
    }
    this.pushed += samples.length;
  }

  complete() {}

  clear() {
    this.pushed = this.base = 0;
    this.at = this.now();
  }

  position() {
    return Math.min(this.pushed, this.base + (this.now() - this.at) * RATE);
  }

  isSuspended() {
    return false;
  }

  async resume() {}

  async close() {}
}
