/** Hands the samples of the microphone to the page, 20 ms at a time. */

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.chunk = new Float32Array(Math.round(sampleRate / 50));
    this.filled = 0;
  }

  /** @param {Float32Array[][]} inputs */
  process([[input]]) {
    for (let at = 0; input && at < input.length;) {
      const count = Math.min(input.length - at, this.chunk.length - this.filled);
      this.chunk.set(input.subarray(at, at + count), this.filled);
      at += count;
      this.filled += count;
      if (this.filled === this.chunk.length) {
        this.port.postMessage(this.chunk, [this.chunk.buffer]);
        this.chunk = new Float32Array(Math.round(sampleRate / 50));
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("avatar-capture", Capture);
