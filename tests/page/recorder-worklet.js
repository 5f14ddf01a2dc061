class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.samples = [];
    this.frame = 0;
  }

  process([[input]]) {
    if (!this.samples.length) this.frame = currentFrame;
    for (let i = 0; i < 128; i++) this.samples.push(input ? Math.round(input[i] * 32768) : 0);
    if (this.samples.length >= 1280) {
      this.port.postMessage([this.frame, this.samples]);
      this.samples = [];
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
