// Runs before the page. Records what leaves for the loudspeaker, and what the canvas shows when.
// It changes only functions of the browser, and knows nothing of the page.
(() => {
  const record = { sound: [], pictures: [], clicks: [], context: null, rate: 0 };
  window.record = record;
  const connect = AudioNode.prototype.connect;
  AudioNode.prototype.connect = function (target, ...rest) {
    if (target instanceof AudioDestinationNode && this.context instanceof AudioContext
        && this.context !== record.context) {
      record.context = this.context;
      record.rate = this.context.sampleRate;
      record.sound = [];
      const source = this;
      // The worklet is in the same thread as the sound: it sees each sample at its exact time.
      const module = URL.createObjectURL(new Blob([window.recorderSource], { type: "text/javascript" }));
      this.context.audioWorklet.addModule(module).then(() => {
        const node = new AudioWorkletNode(source.context, "recorder", { outputChannelCount: [1] });
        node.port.onmessage = ({ data }) => record.sound.push(data);
        connect.call(source, node);
        connect.call(node, source.context.destination);
      });
    }
    return connect.call(this, target, ...rest);
  };
  const now = () => {
    const { context } = record;
    return context ? context.currentTime - (context.outputLatency || context.baseLatency || 0) : null;
  };
  // The time code is a row of eight squares, black or white, along the top of the picture.
  const small = document.createElement("canvas");
  Object.assign(small, { width: 8, height: 1 });
  const reading = small.getContext("2d", { willReadFrequently: true });
  let last = null;
  const request = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (draw) => request((time) => {
    draw(time);
    const at = now();
    const face = document.getElementById("face");
    if (at === null || !face || !record.readsCodes) return;
    let code = 0;
    for (let bit = 0; bit < 8; bit++) {
      reading.drawImage(face, (bit + 0.3) * face.width / 8, 4, face.width / 20, 8, bit, 0, 1, 1);
    }
    const { data } = reading.getImageData(0, 0, 8, 1);
    for (let bit = 0; bit < 8; bit++) code |= (data[4 * bit] > 127 ? 1 : 0) << bit;
    if (code !== last) record.pictures.push([at, code]);
    last = code;
  });
  document.addEventListener("click", ({ target }) => {
    record.clicks.push([record.context?.currentTime ?? 0, target.id]);
  }, true);
})();
