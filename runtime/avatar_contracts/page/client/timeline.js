/** Which sound is heard when: the sound of all responses, one after the other, in samples. */

/**
 * @typedef {object} Moment A position in the sound of a response.
 * @property {string} responseId
 * @property {string} itemId
 * @property {number} ptsMs Milliseconds from the start of the response.
 */

/**
 * @typedef {object} Segment
 * @property {number} from Position of its first sample.
 * @property {number} length Samples.
 * @property {number} ptsMs Of its first sample.
 * @property {string} responseId
 * @property {string} itemId
 */

/** Maps positions, which count samples since the last `clear`, to responses and back. */
export class Timeline {
  /** @param {number} rate Samples per second. */
  constructor(rate) {
    this.rate = rate;
    /** @type {Segment[]} */
    this.segments = [];
    /** @type {Map<string, {end: number, status: string}>} Responses that get no more sound. */
    this.ends = new Map();
    this.end = 0;
  }

  /**
   * Adds sound after all other sound.
   * @param {Moment} moment Of its first sample.
   * @param {number} length Samples.
   */
  append({ responseId, itemId, ptsMs }, length) {
    const last = this.segments.at(-1);
    const continues = last?.responseId === responseId && last.itemId === itemId
      && Math.abs(last.from + last.length - this.end) < 1
      && Math.abs(last.ptsMs + last.length * 1000 / this.rate - ptsMs) < 0.01;
    if (last && continues) last.length += length;
    else this.segments.push({ from: this.end, length, ptsMs, responseId, itemId });
    this.end += length;
  }

  /**
   * Adds sound at a position, which is after all other sound.
   * @param {Moment} moment Of its first sample.
   * @param {number} from Position of its first sample.
   * @param {number} length Samples.
   */
  place(moment, from, length) {
    this.end = from;
    this.append(moment, length);
  }

  /**
   * Records that a response gets no more sound.
   * @param {string} responseId
   * @param {string} status
   */
  finish(responseId, status) {
    const last = this.segments.findLast((segment) => segment.responseId === responseId);
    this.ends.set(responseId, { end: last ? last.from + last.length : 0, status });
  }

  /**
   * Returns the responses that have been heard completely, and forgets them.
   * @param {number} position
   * @returns {{responseId: string, status: string}[]}
   */
  takeFinished(position) {
    const done = [...this.ends].filter(([, { end }]) => end <= position);
    for (const [responseId] of done) this.ends.delete(responseId);
    return done.map(([responseId, { status }]) => ({ responseId, status }));
  }

  /**
   * Returns what is heard at a position, or null before the first sound.
   * @param {number} position
   * @returns {Moment | null}
   */
  at(position) {
    while (this.segments.length > 1 && this.segments[1].from <= position - this.rate) {
      this.segments.shift();
    }
    const segment = this.segments.findLast(({ from }) => from <= position);
    if (!segment || !this.end) return null;
    const samples = Math.min(position - segment.from, segment.length);
    const { responseId, itemId } = segment;
    return { responseId, itemId, ptsMs: segment.ptsMs + samples * 1000 / this.rate };
  }

  /**
   * Returns the position at which a frame is due, or null if its sound is unknown.
   * @param {string} responseId
   * @param {number} ptsMs
   * @returns {number | null}
   */
  dueAt(responseId, ptsMs) {
    const segment = this.segments.findLast(
      (each) => each.responseId === responseId && each.ptsMs <= ptsMs + 0.01);
    return segment ? segment.from + (ptsMs - segment.ptsMs) * this.rate / 1000 : null;
  }

  /**
   * Returns how much sound lies between two positions, of which the first is not over a second old.
   * @param {number} from
   * @param {number} to
   * @returns {number} Samples.
   */
  lengthBetween(from, to) {
    return this.segments.reduce((sum, segment) => {
      const end = Math.min(to, segment.from + segment.length);
      return sum + Math.max(0, end - Math.max(from, segment.from));
    }, 0);
  }

  /** Forgets everything; positions count from 0 again. */
  clear() {
    this.segments = [];
    this.ends.clear();
    this.end = 0;
  }
}
