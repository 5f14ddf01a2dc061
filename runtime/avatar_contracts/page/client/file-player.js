/** Plays the file of a session in a video element: its sound and its pictures have one clock. */

import { SessionError } from "./errors.js";
import { lastPictureMs, readHeader } from "./mp4.js";
import { RATE } from "./pcm.js";

/** @typedef {import("./sound.js").Sound} Sound */

const TYPE = 'video/mp4; codecs="avc1.640028, mp4a.40.2"';
const START_S = 0.2; // of the file before it is played, at the start and after a jump
const EDGE_S = 0.3; // distance from the end of the file after a jump to it
const MAX_IDLE_S = 0.8; // distance from the end while nobody speaks
const MAX_AHEAD_S = 60; // of the file that a paused element does not play
const KEPT_S = 10; // behind what is played
const MAX_QUEUED = 32 << 20; // bytes that the browser has not taken
const KEPT_TIMES = 250;

/**
 * @typedef {object} FileHandlers
 * @property {() => void} onProgress The element has played more.
 * @property {(error: Error) => void} onFailed The browser cannot play the file.
 */

/** @implements {Sound} */
export class FilePlayer {
  /** Whether this browser can play the file of a session. */
  static isSupported() {
    return typeof MediaSource !== "undefined" && MediaSource.isTypeSupported(TYPE);
  }

  /**
   * @param {HTMLVideoElement} video
   * @param {FileHandlers} on
   */
  constructor(video, on) {
    this.video = video;
    this.on = on;
    this.source = new MediaSource();
    /** @type {SourceBuffer | null} */
    this.buffer = null;
    /** @type {import("./mp4.js").Header | null} */
    this.header = null;
    /** @type {Uint8Array<ArrayBuffer>[]} */
    this.queue = [];
    this.queued = 0; // bytes
    this.awaits = true; // the first part of the file, or of a new epoch, says where to go on
    /** @type {number | null} Where to go on, seconds, once enough of the file is there. */
    this.target = null;
    this.plays = true; // unless the user has paused the element
    this.busyUntilS = 0; // where the last response in the file ends
    this.onProgress = on.onProgress;
    this.isBlocked = false;
    /** @type {import("./timeline.js").Timeline | null} Where the responses are in the file. */
    this.timeline = null;
    this.underruns = this.drawn = this.drawnIdle = 0;
    /** @type {number[]} Milliseconds between the time of the element and of the picture it shows. */
    this.skews = [];
    /** @type {number[]} When the last pictures were shown, milliseconds. */
    this.times = [];
    this.ending = new AbortController();
    this.#listen();
    this.address = URL.createObjectURL(this.source);
    video.srcObject = null;
    video.src = this.address;
  }

  /** Pictures that the browser did not show in time. */
  get dropped() {
    return this.video.getVideoPlaybackQuality().droppedVideoFrames;
  }

  #listen() {
    const { video, source } = this;
    const options = { signal: this.ending.signal };
    source.addEventListener("sourceopen", () => this.#append(), options);
    video.addEventListener("timeupdate", () => this.onProgress(), options);
    video.addEventListener("play", () => this.#follow(), options);
    video.addEventListener("waiting", () => {
      if (!video.seeking && video.currentTime < this.busyUntilS) this.underruns++;
    }, options);
    video.addEventListener("error", () => this.#fail(video.error?.message ?? "it cannot be decoded"), options);
    const watch = (/** @type {number} */ _now, /** @type {VideoFrameCallbackMetadata} */ { mediaTime }) => {
      if (this.ending.signal.aborted) return;
      if (this.#isSpeech(mediaTime)) this.drawn++;
      else this.drawnIdle++;
      this.skews.push((mediaTime - video.currentTime) * 1000);
      this.times.push(performance.now());
      if (this.times.length > KEPT_TIMES) { this.times.shift(); this.skews.shift(); }
      video.requestVideoFrameCallback(watch);
    };
    if ("requestVideoFrameCallback" in video) video.requestVideoFrameCallback(watch);
  }

  /** @param {number} atS When a picture starts; its middle says whose it is. */
  #isSpeech(atS) {
    return (this.timeline?.lengthBetween((atS + 0.01) * RATE, (atS + 0.02) * RATE) ?? 0) > 0;
  }

  /**
   * Adds a part of the file after all others.
   * @param {Uint8Array<ArrayBuffer>} part
   * @param {boolean} isCurrent Whether it belongs to the current epoch.
   * @returns {number} Where its last picture starts, milliseconds of the file.
   */
  append(part, isCurrent) {
    this.header = readHeader(part) ?? this.header;
    if (!this.header) { this.#fail("its header is missing"); return NaN; }
    const atMs = lastPictureMs(part, this.header);
    if (isCurrent && this.awaits && Number.isFinite(atMs)) {
      this.awaits = false;
      this.target = atMs / 1000;
    }
    this.queue.push(part);
    this.queued += part.length;
    if (this.queued > MAX_QUEUED) this.#fail(`${this.queued} bytes wait, at most ${MAX_QUEUED} may`);
    else this.#append();
    return atMs;
  }

  /** Gives the browser what it lacks, and takes away what was played long ago. */
  #append() {
    const { source, header, video } = this;
    if (source.readyState !== "open" || !header || this.buffer?.updating) return;
    try {
      if (!this.buffer) {
        this.buffer = source.addSourceBuffer(header.mediaType);
        this.buffer.addEventListener("updateend", () => { this.#follow(); this.#append(); },
          { signal: this.ending.signal });
      }
      const { buffered } = this.buffer;
      if (buffered.length && buffered.start(0) < video.currentTime - 2 * KEPT_S) {
        this.buffer.remove(0, video.currentTime - KEPT_S);
      } else if (this.queue.length) {
        this.buffer.appendBuffer(this.queue[0]);
        this.queued -= this.queue[0].length;
        this.queue.shift();
      }
    } catch (error) {
      this.#fail(/** @type {Error} */ (error).message);
    }
  }

  /** Starts, goes on after a jump, and stays near the end of the file while nobody speaks. */
  #follow() {
    const { video, buffer, target } = this;
    if (!buffer?.buffered.length) return;
    const edge = buffer.buffered.end(buffer.buffered.length - 1);
    if (target !== null) {
      if (edge < target + START_S) return;
      this.target = null;
      if (video.currentTime !== target) video.currentTime = target;
      if (this.plays) void this.#play();
      return;
    }
    const ahead = edge - video.currentTime;
    const isIdle = !this.awaits && !video.paused && !video.seeking && video.currentTime >= this.busyUntilS;
    if ((isIdle && ahead > MAX_IDLE_S) || ahead > MAX_AHEAD_S) video.currentTime = edge - EDGE_S;
  }

  async #play() {
    try {
      await this.video.play();
      this.isBlocked = false;
    } catch (error) {
      // A pause before it has started is no fault.
      if (/** @type {Error} */ (error).name === "NotAllowedError") this.isBlocked = true;
    }
  }

  /** @param {string} what */
  #fail(what) {
    if (this.ending.signal.aborted) return;
    this.ending.abort();
    this.queue = [];
    this.on.onFailed(new SessionError("file_failed", `The video cannot be played: ${what}.`));
  }

  push() {} // the sound is in the file

  complete() {}

  /** Is silent until the first part of the next epoch. */
  clear() {
    const { video } = this;
    const isHeld = this.awaits || this.target !== null || this.isBlocked;
    if (!isHeld) this.plays = !video.paused;
    this.awaits = true;
    this.target = null;
    this.busyUntilS = 0;
    video.pause();
  }

  position() {
    return this.video.currentTime * RATE;
  }

  isSuspended() {
    return this.isBlocked;
  }

  async resume() {
    this.plays = true;
    if (!this.awaits && this.target === null) await this.#play();
  }

  async close() {
    this.ending.abort();
    this.queue = [];
    if (this.video.src !== this.address) return; // another session has the element
    this.video.removeAttribute("src");
    this.video.load();
    URL.revokeObjectURL(this.address);
  }
}
