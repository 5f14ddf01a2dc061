/** Frames wait for their sound: each is decoded shortly before it is due, and drawn when it is. */

import { H264Decoder, JpegDecoder } from "./decoders.js";

/** @typedef {import("./decoders.js").Frame} Frame */
/** @typedef {import("./decoders.js").Decoder} Decoder */

/**
 * @typedef {object} Entry
 * @property {Frame} frame
 * @property {number} due Position in the sound, samples.
 * @property {"encoded" | "decoding" | "ready" | "failed"} state
 * @property {ImageBitmap | VideoFrame | null} image
 */

const AHEAD_S = 0.4; // how long before it is due a frame is decoded
const MAX_DECODED = 10; // a decoder in hardware has few pictures
const MAX_WAITING = 1500; // one minute
const MAX_FAILURES = 3;
const KEPT_TIMES = 250;

export class Video {
  /**
   * @param {HTMLCanvasElement | OffscreenCanvas} canvas
   * @param {number} rate Samples per second of the positions.
   * @param {{onKeyframeNeeded: () => void, onRefused: () => void, onDrawn: (frame: Frame) => void}} on
   *   `onRefused`: H.264 cannot be decoded here.
   */
  constructor(canvas, rate, on) {
    this.canvas = canvas;
    this.drawing = /** @type {CanvasRenderingContext2D} */ (
      canvas.getContext("2d", { alpha: false, desynchronized: false }));
    this.rate = rate;
    this.on = on;
    /** @type {Entry[]} */
    this.entries = [];
    /** @type {Record<string, Decoder>} */
    this.decoders = {};
    this.failures = 0;
    this.lastDue = -Infinity;
    this.drawn = this.drawnIdle = 0;
    this.dropped = 0;
    /** @type {number[]} Milliseconds between the time of the sound and of the frame drawn at it. */
    this.skews = [];
    /** @type {number[]} When the last frames were drawn, milliseconds. */
    this.times = [];
  }

  /**
   * Adds a frame after all others.
   * @param {Frame} frame
   * @param {number} due
   */
  push(frame, due) {
    this.entries.push({ frame, due, state: "encoded", image: null });
    while (this.entries.length > MAX_WAITING) this.#discard(0);
  }

  /**
   * Decodes what is due soon, and draws the newest frame that is due.
   * @param {number} position Samples.
   * @param {number} leadS How long after now a picture becomes visible, seconds.
   */
  update(position, leadS) {
    this.#decode(position);
    const due = position + leadS * this.rate;
    const newest = this.entries.findLastIndex((each) => each.state === "ready" && each.due <= due);
    if (newest < 0) return;
    const entry = this.entries[newest];
    this.#draw(entry, position);
    for (let i = newest - 1; i >= 0; i--) {
      // Later frames of H.264 need the earlier ones that are still being decoded.
      if (this.entries[i].state !== "decoding") this.#discard(i);
    }
    this.entries.splice(this.entries.indexOf(entry), 1);
  }

  /** Forgets all frames. */
  clear() {
    while (this.entries.length) this.#discard(0, false);
    this.lastDue = -Infinity;
    this.decoders.h264?.close();
    delete this.decoders.h264;
  }

  close() {
    this.clear();
  }

  /** @param {number} position */
  #decode(position) {
    this.#skipTo(position);
    let decoded = this.entries.filter(({ state }) => state === "decoding" || state === "ready").length;
    for (let i = 0; i < this.entries.length && decoded < MAX_DECODED; i++) {
      const entry = this.entries[i];
      if (entry.state !== "encoded") continue;
      if (entry.due > position + AHEAD_S * this.rate) break;
      const decoder = this.#decoder(entry.frame.mode);
      entry.state = "decoding";
      decoded++;
      decoder.decode(entry.frame).then(
        (image) => this.#decoded(entry, image), (error) => this.#failed(entry, error));
    }
  }

  /**
   * Discards what nobody will see: all before the last keyframe that is due.
   * @param {number} position
   */
  #skipTo(position) {
    const isStart = (/** @type {Entry} */ { frame, due, state }) => (
      state === "encoded" && frame.keyframe && due <= position);
    for (let i = this.entries.findLastIndex(isStart) - 1; i >= 0; i--) {
      if (this.entries[i].state === "encoded") this.#discard(i);
    }
  }

  /** @param {Frame["mode"]} mode */
  #decoder(mode) {
    return this.decoders[mode] ??= mode === "h264" ? new H264Decoder() : new JpegDecoder();
  }

  /**
   * @param {Entry} entry
   * @param {ImageBitmap | VideoFrame} image
   */
  #decoded(entry, image) {
    if (!this.entries.includes(entry)) { image.close(); return; }
    entry.image = image;
    entry.state = "ready";
    this.failures = 0;
    if (entry.due < this.lastDue) this.#discard(this.entries.indexOf(entry)); // a newer one is shown
  }

  /**
   * @param {Entry} entry
   * @param {{code?: unknown}} error
   */
  #failed(entry, error) {
    const index = this.entries.indexOf(entry);
    if (index < 0) return;
    entry.state = "failed";
    this.#discard(index);
    if (entry.frame.mode !== "h264") return;
    if (error.code !== "needs_keyframe" && ++this.failures >= MAX_FAILURES) this.on.onRefused();
    else if (error.code !== "needs_keyframe" || entry.frame.frameIndex % 25 === 0) {
      this.on.onKeyframeNeeded();
    }
  }

  /**
   * @param {Entry} entry
   * @param {number} position
   */
  #draw(entry, position) {
    const image = /** @type {ImageBitmap | VideoFrame} */ (entry.image);
    const width = "displayWidth" in image ? image.displayWidth : image.width;
    const height = "displayHeight" in image ? image.displayHeight : image.height;
    if (this.canvas.width !== width || this.canvas.height !== height) {
      Object.assign(this.canvas, { width, height });
    }
    this.drawing.drawImage(image, 0, 0);
    image.close();
    entry.image = null;
    this.lastDue = entry.due;
    this.times.push(performance.now());
    if (this.times.length > KEPT_TIMES) this.times.shift();
    if (entry.frame.idle) this.drawnIdle++;
    else {
      this.drawn++;
      this.skews.push((entry.due - position) * 1000 / this.rate);
      if (this.skews.length > KEPT_TIMES) this.skews.shift();
    }
    this.on.onDrawn(entry.frame);
  }

  /**
   * @param {number} index
   * @param {boolean} [isDrop] Whether it counts as a frame that was not shown.
   */
  #discard(index, isDrop = true) {
    const [entry] = this.entries.splice(index, 1);
    entry.image?.close();
    if (isDrop && !entry.frame.idle) this.dropped++;
  }
}
