/** The figures of a session. */

import { setText } from "./view.js";

const PERIOD_MS = 500;
const IDLE = /** @type {Record<string, string>} */ ({
  stream: "the avatar moves", none: "the last frame stays", sound: "there is no video",
});

/** Shows the figures of one session after the other. */
export class Details {
  /** @param {() => import("./client/session.js").Session | null} current */
  constructor(current) {
    this.current = current;
    this.dropped = 0;
    setInterval(() => this.#show(), PERIOD_MS);
  }

  /** A session starts. */
  reset() {
    this.dropped = 0;
  }

  /**
   * Takes in an event of the server.
   * @param {import("./client/connection.js").ServerEvent} event
   */
  receive(event) {
    if (event.type === "response.video.dropped") {
      this.dropped += event.last_frame_index - event.first_frame_index + 1;
    }
  }

  #show() {
    const session = this.current();
    setText("connection", session?.state ?? "none");
    if (!session) return;
    const figures = session.statistics();
    setText("first", number(figures.firstFrameMs, 0, "ms"));
    setText("frames", `${figures.received} received, ${figures.drawn} drawn, ${this.dropped} `
      + `dropped by the server, ${figures.dropped} too late here; `
      + `in silence ${figures.receivedIdle} received, ${figures.drawnIdle} drawn`);
    setText("rate", number(figures.framesPerS, 1, "frames/s"));
    setText("skew", number(figures.skewMs, 1, "ms (95 %)"));
    setText("played", number(figures.playedS, 1, "s"));
    setText("underruns", String(figures.underruns));
    setText("bandwidth", number(figures.kbitPerS, 0, "kbit/s"));
    setText("mode", figures.mode || "–");
    setText("transport", figures.transport ? `${figures.transport}, flow by ${figures.flow}` : "–");
    const always = /** @type {Record<string, string>} */ ({ fmp4: "stream", none: "sound" });
    setText("idle", IDLE[always[figures.mode] ?? figures.idle] ?? "–");
  }
}

/**
 * @param {number} value
 * @param {number} digits
 * @param {string} unit
 */
function number(value, digits, unit) {
  return Number.isFinite(value) ? `${value.toFixed(digits)} ${unit}` : "–";
}
