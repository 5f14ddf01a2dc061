/** The public object: one session with an avatar. */

import { Acknowledgements } from "./acknowledgements.js";
import { Connection } from "./connection.js";
import { SessionError } from "./errors.js";
import { Media } from "./media.js";
import { Microphone } from "./microphone.js";
import { Negotiation } from "./negotiation.js";
import { checkOptions, endpoint } from "./options.js";
import { chooseMode, openOutput } from "./outputs.js";
import { followScreen } from "./screen.js";
import { describe, Statistics } from "./statistics.js";
import { Turns } from "./turns.js";

/** @typedef {import("./connection.js").ServerEvent} ServerEvent */
/** @typedef {import("./connection.js").ConnectionState} ConnectionState */
/** @typedef {import("./turns.js").TurnResult} TurnResult */
/** @typedef {import("./options.js").Options} Options */

const TICK_MS = 200;

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
 * - `caption` `{role, id, text, isFinal}`: what the user says, and what the avatar says when it is
 *   heard, if there are transcripts;
 * - `interrupted`: new speech or `interrupt()` ended what was heard;
 * - `error` and `warning`: the error object of the server;
 * - `video` `{mode}`: the video is played in another mode than was asked for;
 * - `suspended`: the browser plays no sound before a gesture, whose handler calls `resumeSound()`;
 * - `event`: each event of the server, media included.
 */
export class Session extends EventTarget {
  /** @param {Options} options */
  constructor(options) {
    super();
    checkOptions(options);
    this.options = options;
    /** @type {Media | null} */
    this.media = null;
    /** @type {Microphone | null} */
    this.microphone = null;
    /** @type {Negotiation | null} */
    this.negotiation = null;
    /** @type {any} The session object of the server, with all settings. */
    this.settings = null;
    this.figures = new Statistics();
    this.isSuspended = false; // waits for a gesture
    this.acknowledgements = new Acknowledgements((fields) => this.connection.send({
      type: "output_video_buffer.ack", event_id: "js_ack", ...fields, seq: this.connection.lastSeq,
    }, { isQuiet: true }));
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
  get state() { return this.connection.state; }

  /** Whether a response is heard now. */
  get isSpeaking() { return this.media?.isHeard ?? false; }

  /**
   * Lets the avatar say a text, in a service of mode `speech` or `bridge`.
   * @param {string} text
   * @returns {Promise<TurnResult>} When it has been heard.
   */
  say(text) { return this.turns.say(text); }

  /**
   * Sends a recording; the avatar speaks it in mode `drive` and answers it in the others.
   * @param {Int16Array} samples 24 kHz.
   * @returns {Promise<TurnResult>} When the response has been heard.
   */
  play(samples) { return this.turns.play(samples); }

  /** Stops what the avatar says, at once, and all requests that wait. */
  interrupt() {
    const { media } = this;
    const moment = (media?.bufferedS ?? 0) > 0 ? media?.moment ?? null : null;
    this.turns.interrupt(moment);
    media?.raiseEpoch();
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
  send(event) { return this.connection.send(event); }

  /** Ends the session. */
  close() { this.connection.close(); }

  /** Figures for engineers; a figure that is not known is NaN. */
  statistics() {
    return describe(this.figures, this.media, this.settings?.avatar);
  }

  async #open() {
    const { microphone, transport, flow, idle, session } = this.options;
    const mode = await chooseMode(this.options);
    this.negotiation = new Negotiation({ mode, transport, flow, idle }, session);
    const { sound, video, file } = await this.#output(mode);
    this.media = new Media(sound, video, {
      onFrame: (frame) => {
        if (!frame.idle) this.figures.addFrame();
        this.options.onFrame?.(frame);
      },
      onAudio: (part) => this.options.onAudio?.(part),
      onCaption: (caption) => this.#emit("caption", caption),
      onStarted: (responseId) => this.#emit("speaking", { responseId }),
      onFinished: (responseId, status) => {
        this.#acknowledge(true);
        this.turns.finish(responseId, status);
        this.#emit("finished", { responseId, status });
      },
    });
    this.media.attach(file);
    if (this.state === "closed") { await this.media.close(); return; }
    this.#run();
    await this.connection.open();
    if (microphone) {
      await this.listen(microphone === true ? undefined : microphone).catch(
        ({ code, message }) => this.#emit("error", { code, message }));
    }
  }

  /** @param {import("./negotiation.js").Mode} mode */
  #output(mode) {
    return openOutput(this.options, mode, {
      onProgress: () => this.#tick(),
      onFailed: ({ message }) => {
        this.#emit("error", { code: "file_failed", message });
        this.interrupt(); // a mode is changed in silence only
        void this.#leaveFile();
      },
      onKeyframeNeeded: () => this.send({ type: "output_video_buffer.request_keyframe" }),
      onRefused: () => this.#setMode("jpeg"),
    });
  }

  /** Goes on with single frames, because the server or the browser does not play the file. */
  async #leaveFile() {
    const mode = await chooseMode(this.options, false);
    const before = this.media?.sound;
    this.media?.use(await this.#output(mode));
    await before?.close();
    if (this.state === "closed") { await this.media?.close(); return; }
    this.#setMode(mode);
  }

  /** Draws with the screen, and acknowledges what was heard. */
  #run() {
    if (this.options.canvas || this.options.video) {
      followScreen((leadS) => {
        this.media?.update(leadS);
        return this.state !== "closed";
      });
    }
    this.ticking = setInterval(() => this.#tick(), TICK_MS);
  }

  /** A hidden page gets no animation frames. */
  #tick() {
    this.media?.update(0);
    this.#acknowledge(false);
    const isSuspended = this.media?.isSuspended ?? false;
    if (isSuspended && !this.isSuspended) this.#emit("suspended");
    this.isSuspended = isSuspended;
  }

  /** @param {boolean} isEnd */
  #acknowledge(isEnd) {
    if (this.state !== "closed") this.acknowledgements.tell(this.media?.moment ?? null, isEnd);
  }

  /** @param {import("./negotiation.js").Mode} mode */
  #setMode(mode) {
    const { negotiation } = this;
    if (!negotiation || mode === negotiation.wanted.mode) return;
    negotiation.wanted.mode = mode;
    this.#configure();
    this.#emit("video", { mode });
  }

  #configure() {
    if (this.negotiation) this.negotiation.eventId = this.send(this.negotiation.update);
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
    if (event.type === "session.updated" && this.negotiation) this.negotiation.isAgreed = true;
    if (event.type === "session.created") {
      this.#configure();
      this.settle?.resolve(this);
    } else if (event.type === "error" && this.#goWithout(event.error)) {
      // It was asked for something that it does not serve, and is asked again for the rest.
    } else if (event.type === "error" || event.type === "warning") {
      this.#emit(event.type, event[event.type]);
    }
    this.#emit("event", event);
  }

  /** @param {any} error */
  #goWithout(error) {
    const refused = this.negotiation?.giveUp(error) ?? null;
    if (refused) void (refused === "mode" ? this.#leaveFile() : this.#configure());
    return refused !== null;
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
