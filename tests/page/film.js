// Runs before the page. Records which picture a video element shows at which of its times, and its
// sound. It changes nothing of the page but where the sound goes: through Web Audio.
(() => {
  const small = document.createElement("canvas");
  Object.assign(small, { width: 8, height: 1 });
  const reading = small.getContext("2d", { willReadFrequently: true });
  const film = window.film = { seen: [] };
  window.watchFilm = () => {
    const element = document.getElementById("film");
    const context = new AudioContext({ sampleRate: 24000 });
    context.createMediaElementSource(element).connect(context.destination);
    document.addEventListener("click", () => context.resume());
    const watch = () => {
      // A later picture may be shown than the one that the callback is about.
      const now = element.currentTime;
      const picture = new VideoFrame(element);
      const { displayWidth: width, timestamp } = picture;
      let code = 0;
      for (let bit = 0; bit < 8; bit++) {
        reading.drawImage(picture, (bit + 0.3) * width / 8, 4, width / 20, 8, bit, 0, 1, 1);
      }
      picture.close();
      const { data } = reading.getImageData(0, 0, 8, 1);
      for (let bit = 0; bit < 8; bit++) code |= (data[4 * bit] > 127 ? 1 : 0) << bit;
      film.seen.push([now, timestamp / 1e6, code]);
      element.requestVideoFrameCallback(watch);
    };
    element.requestVideoFrameCallback(watch);
  };
})();
