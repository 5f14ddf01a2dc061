/** Plays what a session receives: the sound is the clock, and frames follow it. */

import { Captions } from "./captions.js";
import { decodeBase64, fromBytes, RATE } from "./pcm.js";
import { Timeline } from "./timeline.js";

/** @typedef {import("./connection.js").ServerEvent} ServerEvent */
/** @typedef {import("./decoders.js").Frame} Frame */
/** @typedef {import("./outputs.js").Output} Output */
/** @typedef {import("./sound.js").Sound} Sound */
/** @typedef {import("./video.js").Video} Video */

const FRAME_WAIT_MS = 300; // for the first frame of a response, before its sound starts
const MAX_AHEAD_S = 60; // of sound that a suspended page does not play

/**
 * @typedef {object} MediaHandlers
 * @property {(frame: Frame) => void} onFrame As it is received.
 * @property {(sound: {samples: Int16Array, responseId: string, ptsMs: number}) => void} onAudio
 *   As it is received.
 * @property {(responseId: string) => void} onStarted The first sound of a response is played.
 * @property {(responseId: string, status: string) => void} onFinished The last one has been heard.
 * @property {(caption: import("./captions.js").Caption) => void} onCaption What is said has begun to
 *   be heard.
 */

export class Media {
  /**
   * @param {Sound} sound
   * @param {Video | null} video
   * @param {MediaHandlers} on
   */
  constructor(sound, video, on) {
    this.sound = sound;
    this.video = video;
    /** @type {import("./file-player.js").FilePlayer | null} */
    this.file = null;
    this.on = on;
    this.fps = 25;
    this.timeline = new Timeline(RATE);
    this.epoch = 0;
    /** @type {ReturnType<typeof setTimeout> | null} */
    this.starting = null;
    /** @type {Int16Array[]} Sound of a response whose first frame has not come. */
    this.held = [];
    this.current = "";
    this.started = "";
    this.isHeard = false; // from the first sound of a response to its last
    this.received = this.receivedIdle = 0; // frames of responses, and of silence
    this.playedSamples = 0; // of all responses
    this.counted = 0; // position up to which they are counted
    this.captions = new Captions();
    this.last = { id: "", epoch: 0 }; // response
    this.hasVideo = true;
  }

  /**
   * Plays elsewhere from now on, and forgets what is not played.
   * @param {Output} output
   */
  use({ sound, video, file }) {
    this.clear();
    Object.assign(this, { sound, video });
    this.attach(file);
  }

  /** @param {import("./file-player.js").FilePlayer | null} file Plays sound and pictures. */
  attach(file) {
    this.file = file;
    if (file) file.timeline = this.timeline;
  }

  /**
   * Takes in an event of the server.
   * @param {ServerEvent} event
   */
  receive(event) {
    if (Number.isInteger(event.epoch) && event.epoch > this.epoch) {
      const isFirst = this.epoch === 0;
      this.epoch = event.epoch;
      // What is not heard yet is stale, whatever raised the epoch.
      if (!isFirst) this.clear();
    }
    if (event.type === "response.created") this.last = { id: event.response.id, epoch: event.epoch };
    const isStale = event.response_id === this.last.id && this.last.epoch < this.epoch;
    if (!isStale) this.captions.add(event, this.timeline.end);
    if (event.type === "response.output_audio.delta") this.#addSound(event);
    else if (event.type === "response.video.delta") this.#addFrame(event);
    else if (event.type === "response.output_audio.done" && event.response_id === this.current) {
      this.#start();
      this.sound.complete();
    } else if (event.type === "response.done") {
      this.timeline.finish(event.response.id, event.response.status);
      if (event.response.id === this.current) this.#start();
    } else if (event.type === "session.created" || event.type === "session.updated") {
      this.hasVideo = event.session.avatar?.video?.mode !== "none";
      this.fps = event.session.avatar?.fps ?? this.fps;
    }
  }

  /** What is heard now. */
  get moment() {
    return this.timeline.at(this.sound.position());
  }

  /** Seconds of sound that wait. */
  get bufferedS() {
    return Math.max(0, (this.timeline.end - this.sound.position()) / RATE);
  }

  /** Whether something is to be heard, and the browser waits for a gesture of the user. */
  get isSuspended() {
    return this.sound.isSuspended() && (Boolean(this.file) || this.bufferedS > 0);
  }

  /**
   * Draws what is due, and reports what has been heard completely.
   * @param {number} leadS How long after now a picture becomes visible, seconds.
   */
  update(leadS) {
    const position = this.sound.position();
    this.video?.update(position, leadS);
    this.#count(position);
    for (const caption of this.captions.takeHeard(position)) this.on.onCaption(caption);
    const { moment } = this;
    if (moment && moment.responseId !== this.started && position > 0) {
      this.started = moment.responseId;
      this.isHeard = true;
      this.on.onStarted(moment.responseId);
    }
    if (this.held.length) return;
    for (const { responseId, status } of this.timeline.takeFinished(position)) {
      if (responseId === this.started) this.isHeard = false;
      this.on.onFinished(responseId, status);
    }
  }

  /** @param {number} position */
  #count(position) {
    this.playedSamples += this.timeline.lengthBetween(this.counted, position);
    this.counted = position;
  }

  /** Stops the sound and forgets everything that is not played. */
  clear() {
    this.#count(this.sound.position());
    this.counted = 0;
    this.captions.clear();
    if (this.starting) clearTimeout(this.starting);
    this.starting = null;
    this.held = [];
    this.current = this.started = "";
    this.isHeard = false;
    const ends = [...this.timeline.ends];
    this.sound.clear();
    this.timeline.clear();
    this.video?.clear();
    for (const [responseId, { status }] of ends) this.on.onFinished(responseId, status);
  }

  /**
   * Accepts only media of a higher epoch from now on, which an interruption raises.
   */
  raiseEpoch() {
    this.epoch++;
    this.clear();
  }

  async close() {
    this.clear();
    this.video?.close();
    await this.sound.close();
  }

  /** @param {ServerEvent} event */
  #addSound(event) {
    if (event.epoch < this.epoch) return;
    const samples = fromBytes(bytesOf(event));
    const { response_id: responseId, item_id: itemId, pts_ms: ptsMs = 0 } = event;
    if (this.file) { // which has the sound, too
      this.on.onAudio({ samples, responseId, ptsMs });
      return;
    }
    if (this.bufferedS > MAX_AHEAD_S) this.clear();
    const isNew = responseId !== this.current;
    if (isNew) this.#start();
    this.current = responseId;
    this.timeline.append({ responseId, itemId, ptsMs }, samples.length);
    this.on.onAudio({ samples, responseId, ptsMs });
    const waits = this.starting || (isNew && this.video && this.hasVideo && ptsMs === 0);
    if (!waits) { this.sound.push(samples); return; }
    this.held.push(samples);
    this.starting ??= setTimeout(() => this.#start(), FRAME_WAIT_MS);
  }

  #start() {
    if (this.starting) clearTimeout(this.starting);
    this.starting = null;
    for (const samples of this.held) this.sound.push(samples);
    this.held = [];
  }

  /** @param {ServerEvent} event */
  #addFrame(event) {
    const isFile = event.mode === "fmp4";
    if (event.epoch < this.epoch && !isFile) return;
    /** @type {Frame} */
    const frame = {
      data: bytesOf(event), mode: event.mode ?? event.codec, responseId: event.response_id,
      frameIndex: event.frame_index, ptsMs: event.pts_ms, epoch: event.epoch,
      keyframe: event.keyframe ?? true, idle: event.idle ?? false,
      ...(event.rect ? { rect: event.rect, sourceFrame: event.source_frame } : {}),
    };
    if (frame.idle) this.receivedIdle++;
    else this.received++;
    this.on.onFrame(frame);
    if (isFile) { this.#addToFile(frame, event.item_id); return; }
    // A picture of silence is due when the sound that has come is over.
    const due = frame.idle || frame.responseId === null
      ? Math.max(this.timeline.end, this.sound.position())
      : this.timeline.dueAt(frame.responseId, frame.ptsMs);
    // Without its sound a frame is shown at once.
    this.video?.push(frame, due ?? this.sound.position());
    if (frame.responseId === this.current) this.#start();
  }

  /**
   * Adds a part of the file: also one of an older epoch, since the file has no gaps.
   * @param {Frame} frame
   * @param {string} itemId
   */
  #addToFile({ data, responseId, ptsMs, epoch, idle }, itemId) {
    const isCurrent = epoch >= this.epoch;
    const atMs = this.file?.append(data, isCurrent);
    if (!this.file || !isCurrent || idle || responseId === null || !Number.isFinite(atMs)) return;
    const from = /** @type {number} */ (atMs) * RATE / 1000;
    this.timeline.place({ responseId, itemId, ptsMs }, from, RATE / this.fps);
    this.file.busyUntilS = this.timeline.end / RATE;
  }
}

/**
 * Returns the bytes of media, which came as such or in base64.
 * @param {ServerEvent} event
 * @returns {Uint8Array<ArrayBuffer>}
 */
function bytesOf({ data, delta }) {
  return data ?? decodeBase64(delta);
}
