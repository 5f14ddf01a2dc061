/** Changes the rate of a stream of samples with a windowed sinc filter. */

const HALF_WIDTH = 12; // zero crossings on each side
const PASS_RATIO = 0.92; // of the band that both rates can represent

export class Resampler {
  /**
   * @param {number} from Samples per second.
   * @param {number} to Samples per second.
   */
  constructor(from, to) {
    this.step = from / to;
    this.cutoff = PASS_RATIO * Math.min(1, to / from); // in half the rate of the input
    this.reach = Math.ceil(HALF_WIDTH / this.cutoff);
    this.kept = new Float32Array(this.reach); // silence before the first sample
    this.position = this.reach; // of the next output, in `kept`
    this.isIdentity = from === to;
  }

  /**
   * Returns the output that the input so far permits; it is later by `HALF_WIDTH` crossings.
   * @param {Float32Array} samples
   * @returns {Float32Array}
   */
  push(samples) {
    if (this.isIdentity) return samples;
    const input = new Float32Array(this.kept.length + samples.length);
    input.set(this.kept);
    input.set(samples, this.kept.length);
    const output = [];
    for (; this.position + this.reach < input.length; this.position += this.step) {
      output.push(this.#at(input, this.position));
    }
    const begin = Math.max(0, Math.floor(this.position) - this.reach);
    this.kept = input.slice(begin);
    this.position -= begin;
    return Float32Array.from(output);
  }

  /**
   * @param {Float32Array} input
   * @param {number} position
   * @returns {number}
   */
  #at(input, position) {
    const first = Math.ceil(position - this.reach), last = Math.floor(position + this.reach);
    let sum = 0, weights = 0;
    for (let i = Math.max(0, first); i <= last; i++) {
      const x = i - position;
      const angle = Math.PI * this.cutoff * x;
      const sinc = angle === 0 ? 1 : Math.sin(angle) / angle;
      const weight = sinc * (0.5 + 0.5 * Math.cos(Math.PI * x / this.reach));
      sum += weight * input[i];
      weights += weight;
    }
    return sum / weights;
  }
}
