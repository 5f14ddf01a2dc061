/** The public object: one session with an avatar. */

import { Captions } from "./captions.js";
import { Connection } from "./connection.js";
import { decodesH264 } from "./decoders.js";
import { endpoint } from "./options.js";
import { SessionError } from "./errors.js";
import { Media } from "./media.js";
import { Microphone } from "./microphone.js";
import { followScreen } from "./screen.js";
import { SilentSound, WorkletSound } from "./sound.js";
import { quantile, Statistics } from "./statistics.js";
import { Turns } from "./turns.js";
import { Video } from "./video.js";

/** @typedef {import("./connection.js").ServerEvent} ServerEvent */
/** @typedef {import("./connection.js").ConnectionState} ConnectionState */
/** @typedef {import("./turns.js").TurnResult} TurnResult */
/** @typedef {import("./options.js").Options} Options */

const ACK_MS = 200;

/**
 * Starts a session. `session.ready` settles when it is open or has failed.
 * @param {Options} options
 * @returns {Session}
 */
export function createSession(options) {
  return new Session(options);
}

/**
 * One session. It dispatches these events, whose `detail` is:
 * - `statechange`: `{state, ...}`; `position` and `etaMs` while `queued`, `reason` while
 *   `reconnecting`, `code`, `sentence` and `error` when `closed`;
 * - `speaking` `{responseId}`, `finished` `{responseId, status}`: as they are heard;
 * - `listening` `{level}`: 50 times a second while the microphone is on, 0 to 1;
 * - `caption` `{role, id, text, isFinal}`: what the avatar or the user says, if there are transcripts;
 * - `interrupted`: new speech or `interrupt()` ended what was heard;
 * - `error` and `warning`: the error object of the server;
 * - `video` `{mode}`: the video mode has changed;
 * - `event`: each event of the server, media included.
 */
export class Session extends EventTarget {
  /** @param {Options} options */
  constructor(options) {
    super();
    this.options = options;
    /** @type {Media | null} */
    this.media = null;
    /** @type {Microphone | null} */
    this.microphone = null;
    this.mode = options.video ?? "auto";
    /** @type {any} The session object of the server, with all settings. */
    this.settings = null;
    this.figures = new Statistics();
    this.acknowledged = "";
    this.captions = new Captions();
    const fetch = options.fetch ?? globalThis.fetch?.bind(globalThis);
    const Socket = options.WebSocket ?? globalThis.WebSocket;
    if (!Socket) throw new SessionError("no_websocket", "Pass a WebSocket: there is no global one.");
    const { model, clientSecret, token: key } = options;
    this.connection = new Connection(
      { url: endpoint(options), key, model, clientSecret, WebSocket: Socket, fetch }, {
        onEvent: (event, bytes) => this.#receive(event, bytes),
        onState: (state, detail) => this.#enter(state, detail),
      });
    this.turns = new Turns(this.connection, () => this.figures.ask());
    /** @type {Promise<Session>} */
    this.ready = new Promise((resolve, reject) => { this.settle = { resolve, reject }; });
    this.ready.catch(() => {}); // also reported as a state
    this.#open().catch((error) => this.connection.fail(error));
  }

  /** @returns {ConnectionState} */
  get state() {
    return this.connection.state;
  }

  /** Whether a response is heard now. */
  get isSpeaking() { return this.media?.isHeard ?? false; }

  /**
   * Lets the avatar say a text, in a service of mode `speech` or `bridge`.
   * @param {string} text
   * @returns {Promise<TurnResult>} When it has been heard.
   */
  say(text) {
    return this.turns.say(text);
  }

  /**
   * Sends a recording; the avatar speaks it in mode `drive` and answers it in the others.
   * @param {Int16Array} samples 24 kHz.
   * @returns {Promise<TurnResult>} When the response has been heard.
   */
  play(samples) {
    return this.turns.play(samples);
  }

  /** Stops what the avatar says, at once, and all requests that wait. */
  interrupt() {
    const { connection, media } = this;
    const moment = media?.moment;
    const isHeard = moment && (media?.bufferedS ?? 0) > 0;
    const hadTurns = this.turns.cancel();
    media?.raiseEpoch();
    const quiet = { isQuiet: true };
    // Sound of turns that wait goes first, so that none of them starts after the cancel.
    if (hadTurns) connection.send({ type: "input_audio_buffer.clear" }, quiet);
    connection.send({ type: "response.cancel" }, quiet);
    connection.send({ type: "output_audio_buffer.clear" }, quiet);
    if (isHeard) {
      connection.send({
        type: "conversation.item.truncate", item_id: moment.itemId, content_index: 0,
        audio_end_ms: Math.floor(moment.ptsMs),
      }, quiet);
    }
    this.#emit("interrupted");
  }

  /**
   * Turns the microphone on.
   * @param {MediaStream} [stream]
   * @returns {Promise<void>}
   * @throws {SessionError} There is no microphone, or the user refuses it.
   */
  async listen(stream) {
    if (this.microphone) return;
    this.microphone = await Microphone.open((samples, level) => {
      this.#emit("listening", { level });
      if (!this.turns.turns.length) {
        this.turns.setDetection(true);
        this.connection.sendSound(samples);
      }
    }, stream);
    if (this.state === "closed") await this.mute();
  }

  /** Turns the microphone off. @returns {Promise<void>} */
  async mute() {
    const { microphone } = this;
    this.microphone = null;
    await microphone?.close();
  }

  /** Lets the page be heard, after a gesture of the user. @returns {Promise<void>} */
  async resumeSound() { await this.media?.sound.resume(); }

  /**
   * Sends any event of the protocol.
   * @param {import("./connection.js").ClientEvent} event
   * @returns {string} Its `event_id`.
   */
  send(event) {
    return this.connection.send(event);
  }

  /** Ends the session. */
  close() {
    this.connection.close();
  }

  /** Figures for engineers; a figure that is not known is NaN. */
  statistics() {
    const video = this.media?.video;
    const skews = video?.skews ?? [];
    const since = performance.now() - 2000;
    return {
      firstFrameMs: this.figures.firstFrameMs,
      framesPerS: (video?.times.filter((at) => at > since).length ?? 0) / 2,
      skewMs: quantile(skews.map(Math.abs), 0.95),
      received: this.media?.received ?? 0,
      drawn: video?.drawn ?? 0,
      dropped: video?.dropped ?? 0,
      underruns: this.media?.sound.underruns ?? 0,
      bufferedMs: (this.media?.bufferedS ?? 0) * 1000,
      kbitPerS: this.figures.kbitPerS,
      mode: this.settings?.avatar?.video?.mode ?? "",
    };
  }

  async #open() {
    const { canvas, audioContext, microphone } = this.options;
    if (this.mode === "auto") this.mode = canvas && await decodesH264() ? "h264" : "jpeg";
    const hasSound = audioContext || typeof AudioContext !== "undefined";
    const sound = hasSound ? await WorkletSound.open(audioContext) : new SilentSound();
    const video = canvas ? new Video(canvas, 24000, {
      onKeyframeNeeded: () => this.send({ type: "output_video_buffer.request_keyframe" }),
      onRefused: () => this.#setMode("jpeg"),
      onDrawn: () => {},
    }) : null;
    this.media = new Media(sound, video, {
      onFrame: (frame) => { this.figures.addFrame(); this.options.onFrame?.(frame); },
      onAudio: (part) => this.options.onAudio?.(part),
      onStarted: (responseId) => this.#emit("speaking", { responseId }),
      onFinished: (responseId, status) => {
        this.turns.finish(responseId, status);
        this.#emit("finished", { responseId, status });
      },
    });
    if (this.state === "closed") { await this.media.close(); return; }
    this.#run();
    await this.connection.open();
    if (microphone) {
      await this.listen(microphone === true ? undefined : microphone).catch(
        ({ code, message }) => this.#emit("error", { code, message }));
    }
  }

  /** Draws with the screen, and acknowledges what was heard. */
  #run() {
    if (this.options.canvas) {
      followScreen((leadS) => {
        this.media?.update(leadS);
        return this.state !== "closed";
      });
    }
    this.ticking = setInterval(() => {
      this.media?.update(0); // a hidden page gets no animation frames
      this.#acknowledge();
    }, ACK_MS);
  }

  #acknowledge() {
    const { moment } = this.media ?? {};
    if (this.state !== "open" || !moment) return;
    const ptsMs = Math.floor(moment.ptsMs);
    /** @type {string} */
    const mark = `${moment.responseId} ${ptsMs}`;
    if (mark === this.acknowledged) return;
    this.acknowledged = mark;
    this.connection.send({
      type: "output_video_buffer.ack", event_id: "js_ack", response_id: moment.responseId, pts_ms: ptsMs,
      seq: this.connection.lastSeq,
    }, { isQuiet: true });
  }

  /** @param {"jpeg" | "h264" | "none"} mode */
  #setMode(mode) {
    if (mode === this.mode) return;
    this.mode = mode;
    this.send({
      type: "session.update", session: { type: "realtime", avatar: { video: { mode } } },
    });
    this.#emit("video", { mode });
  }

  /**
   * @param {ServerEvent} event
   * @param {number} bytes
   */
  #receive(event, bytes) {
    this.figures.addMessage(bytes);
    const before = this.media?.epoch ?? 0;
    const wasHeard = (this.media?.bufferedS ?? 0) > 0;
    this.turns.receive(event);
    this.media?.receive(event);
    if (before && wasHeard && (this.media?.epoch ?? 0) > before) this.#emit("interrupted");
    if (event.session) this.settings = event.session;
    if (event.type === "session.created") {
      const { avatar, ...others } = /** @type {any} */ (this.options.session ?? {});
      const video = { ...avatar?.video, mode: this.mode };
      const session = { type: "realtime", ...others, avatar: { ...avatar, video } };
      this.send({ type: "session.update", session });
      this.settle?.resolve(this);
    } else if (event.type === "error" || event.type === "warning") {
      this.#emit(event.type, event[event.type]);
    }
    const caption = this.captions.take(event);
    if (caption) this.#emit("caption", caption);
    this.#emit("event", event);
  }

  /**
   * @param {ConnectionState} state
   * @param {any} [detail]
   */
  #enter(state, detail = {}) {
    if (state === "closed") {
      clearInterval(this.ticking);
      const { error, sentence, code } = detail;
      const fault = new SessionError(error?.code ?? "closed", error?.message ?? sentence, { close: code });
      this.turns.cancel(fault);
      this.settle?.reject(fault);
      void this.mute();
      void this.media?.close();
    }
    this.#emit("statechange", { state, ...detail });
  }

  /**
   * @param {string} type
   * @param {any} [detail]
   */
  #emit(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
