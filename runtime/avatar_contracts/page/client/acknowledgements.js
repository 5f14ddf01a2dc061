/** What was heard, told to the server: `flow: "ack"` sends no more than a window beyond it. */

/** @typedef {import("./timeline.js").Moment} Moment */

const PERIOD_MS = 200;

export class Acknowledgements {
  /**
   * @param {(fields: {response_id: string, pts_ms: number}) => void} send
   * @param {() => number} [now] Milliseconds.
   */
  constructor(send, now = () => performance.now()) {
    this.send = send;
    this.now = now;
    this.sentAt = -Infinity;
    this.last = "";
  }

  /**
   * Tells how far a response was heard, if that is news and some time has passed since the last one.
   * @param {Moment | null} moment
   * @param {boolean} [isEnd] Whether the response was heard to its end, which is told at once.
   */
  tell(moment, isEnd = false) {
    if (!moment || (!isEnd && this.now() < this.sentAt + PERIOD_MS)) return;
    // The end of a response is exact: a server counts a response as played only then.
    const { responseId, ptsMs } = moment;
    const mark = `${responseId} ${ptsMs}`;
    if (mark === this.last) return;
    this.last = mark;
    this.sentAt = this.now();
    this.send({ response_id: responseId, pts_ms: ptsMs });
  }
}
