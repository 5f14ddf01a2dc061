/** Changes the rate of a stream of samples with a windowed sinc filter. */

const HALF_WIDTH = 12; // zero crossings on each side
const PHASES = 960; // parts of a sample: exact for all usual rates
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
    /** @type {Map<number, Float64Array>} By phase; the usual rates have 80 at most. */
    this.weights = new Map();
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
    for (; this.position + this.reach + 1 < input.length; this.position += this.step) {
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
    const phase = Math.round((position - Math.floor(position)) * PHASES) % PHASES;
    const weights = this.weights.get(phase) ?? this.#addWeights(phase);
    const first = Math.round(position - phase / PHASES) - this.reach;
    let sum = 0;
    for (let i = Math.max(0, -first); i < weights.length; i++) sum += weights[i] * input[first + i];
    return sum;
  }

  /**
   * Computes the filter for positions that are `phase` after a sample of the input.
   * @param {number} phase In `PHASES` parts of a sample.
   * @returns {Float64Array}
   */
  #addWeights(phase) {
    const weights = Float64Array.from({ length: 2 * this.reach + 1 }, (_, i) => {
      const x = i - this.reach - phase / PHASES;
      if (Math.abs(x) >= this.reach) return 0;
      const angle = Math.PI * this.cutoff * x;
      const sinc = angle === 0 ? 1 : Math.sin(angle) / angle;
      return sinc * (0.5 + 0.5 * Math.cos(Math.PI * x / this.reach));
    });
    const total = weights.reduce((sum, weight) => sum + weight);
    const scaled = weights.map((weight) => weight / total);
    this.weights.set(phase, scaled);
    return scaled;
  }
}
