/** Plays samples in the thread of the sound, and reports how many have been played and when. */

/**
 * @typedef {object} Message
 * @property {number} generation Raised by each `clear`; older messages are ignored.
 * @property {Float32Array} [samples]
 * @property {boolean} [complete] Nothing follows soon.
 * @property {boolean} [clear]
 */

const REPORT_FRAMES = 1024;
const REST_S = 1; // reports go on for this long after the last sample, which is heard later
const START_S = 0.06; // after an underrun, sound goes on when this much is there

class Playback extends AudioWorkletProcessor {
  /** @type {Float32Array[]} */
  chunks = [];
  generation = 0;
  offset = 0; // in the first chunk
  buffered = 0;
  played = 0;
  isPlaying = false;
  isComplete = false;
  reportedAt = 0;
  endedAt = -Infinity; // seconds

  constructor() {
    super();
    this.port.onmessage = ({ data }) => this.receive(data);
  }

  /** @param {Message} message */
  receive({ generation, samples, complete, clear }) {
    if (clear) {
      this.chunks = [];
      this.generation = generation;
      this.offset = this.buffered = this.played = 0;
      this.isPlaying = this.isComplete = false;
      this.report(0, currentTime);
    } else if (generation === this.generation) {
      if (samples) {
        this.chunks.push(samples);
        this.buffered += samples.length;
      }
      this.isComplete = Boolean(complete);
    }
  }

  /**
   * Reports that a number of samples were played at a time of the context.
   * @param {number} played
   * @param {number} at Seconds.
   */
  report(played, at) {
    const { generation, buffered, isPlaying } = this;
    this.reportedAt = currentFrame;
    this.port.postMessage({ generation, played, buffered, isPlaying, at });
  }

  /**
   * @param {Float32Array[][]} _inputs
   * @param {Float32Array[][]} outputs
   */
  process(_inputs, [[output]]) {
    const before = this.played; // the samples of this block are heard from `currentTime` on
    if (!this.isPlaying) {
      const isEnough = this.buffered >= START_S * sampleRate || (this.isComplete && this.buffered);
      if (!isEnough) {
        const isResting = currentTime < this.endedAt + REST_S;
        if (isResting && currentFrame - this.reportedAt >= REPORT_FRAMES) this.report(before, currentTime);
        return true;
      }
      this.isPlaying = true;
      this.report(before, currentTime);
    }
    const count = this.fill(output);
    this.played += count;
    this.buffered -= count;
    if (!this.buffered) {
      this.isPlaying = false;
      this.endedAt = currentTime;
      this.report(this.played, currentTime + count / sampleRate);
    } else if (currentFrame - this.reportedAt >= REPORT_FRAMES) {
      this.report(before, currentTime);
    }
    return true;
  }

  /**
   * @param {Float32Array} output
   * @returns {number} Samples that there were.
   */
  fill(output) {
    let at = 0;
    while (at < output.length && this.chunks.length) {
      const chunk = this.chunks[0];
      const count = Math.min(output.length - at, chunk.length - this.offset);
      output.set(chunk.subarray(this.offset, this.offset + count), at);
      at += count;
      this.offset += count;
      if (this.offset === chunk.length) {
        this.chunks.shift();
        this.offset = 0;
      }
    }
    return at;
  }
}

registerProcessor("avatar-playback", Playback);
