/** One session over one WebSocket, and over further ones if a connection is lost. */

import { MessageReader, SoundWriter } from "./binary-media.js";
import { describeClose, describeDelay } from "./close-codes.js";
import { subprotocols } from "./credentials.js";
import { SessionError } from "./errors.js";
import { MessageLog } from "./message-log.js";
import { pause } from "./pacing.js";
import { Position } from "./position.js";

/** @typedef {{type: string, event_id?: string, [field: string]: unknown}} ClientEvent */
/** @typedef {{type: string, seq?: number, [field: string]: any}} ServerEvent */
/** @typedef {"connecting" | "queued" | "open" | "reconnecting" | "closed"} ConnectionState */

/**
 * Which states may follow each state.
 * @type {Readonly<Record<ConnectionState, readonly ConnectionState[]>>}
 */
export const NEXT = {
  connecting: ["queued", "open", "closed"],
  queued: ["queued", "open", "closed"],
  open: ["reconnecting", "closed"],
  reconnecting: ["reconnecting", "open", "closed"],
  closed: [],
};

const FIRST_RETRY_MS = 250;
const MAX_RETRY_MS = 4000;
const ATTEMPT_MS = 5000; // for one connection; the server waits as long for the first message
const MAX_QUIET = 256; // requests whose errors may still come

/**
 * @typedef {object} Address
 * @property {URL} url Of the endpoint, with its query.
 * @property {string} [key]
 * @property {string} [model]
 * @property {() => Promise<string>} [clientSecret]
 * @property {typeof WebSocket} WebSocket
 * @property {typeof globalThis.fetch} fetch
 */

/**
 * @typedef {object} Handlers
 * @property {(event: ServerEvent, bytes: number) => void} onEvent
 * @property {(state: ConnectionState, detail?: any) => void} onState
 */

export class Connection {
  /**
   * @param {Address} address
   * @param {Handlers} on
   * @param {() => number} [random] 0 to 1.
   */
  constructor(address, on, random = Math.random) {
    this.address = address;
    this.on = on;
    this.random = random;
    /** @type {ConnectionState} */
    this.state = "connecting";
    /** @type {WebSocket | null} */
    this.socket = null;
    this.log = new MessageLog();
    this.reader = new MessageReader();
    this.writer = new SoundWriter();
    this.position = new Position();
    this.lastSeq = 0;
    this.sessionId = "";
    /** @type {{token: string, ttl_ms: number} | null} */
    this.resume = null;
    /** @type {any} */
    this.refusal = null;
    this.holds = true; // sent later, because there is no session yet or it is being resumed
    this.requests = 0;
    /** @type {Set<string | undefined>} Requests whose errors and warnings nobody wants. */
    this.quiet = new Set();
    this.ending = new AbortController();
  }

  async open() {
    try {
      await this.#connect();
    } catch (error) {
      this.fail(error);
    }
  }

  /**
   * Ends the session because of an error on this side.
   * @param {unknown} error
   */
  fail(error) {
    if (this.state === "closed") return;
    const code = error instanceof SessionError ? error.code : "unreachable";
    const message = error instanceof Error ? error.message : String(error);
    this.#end(1006, { code, message });
    this.socket?.close(1000);
  }

  /**
   * Sends an event; while the connection is lost it is kept.
   * @param {ClientEvent} event Gets an `event_id` if it has none.
   * @param {{isQuiet?: boolean}} [options] Whether its errors are expected.
   * @returns {string} The `event_id`.
   */
  send(event, { isQuiet = false } = {}) {
    const named = { event_id: `js_${++this.requests}`, ...event };
    if (isQuiet) this.#silence(named.event_id);
    this.#write(JSON.stringify(named));
    return named.event_id;
  }

  /** @param {Int16Array} samples */
  sendSound(samples) {
    this.#write(this.writer.write(samples));
  }

  /** Bytes that the network has not taken. */
  get bufferedAmount() {
    return this.socket?.bufferedAmount ?? 0;
  }

  /** Ends the session. */
  close() {
    if (this.state === "closed") return;
    this.socket?.close(1000);
    this.#end(1000, null);
  }

  /** @returns {Promise<void>} */
  async #connect(resumes = false) {
    const { url, WebSocket } = this.address;
    const protocols = await subprotocols(this.address);
    if (this.state === "closed") return;
    const target = new URL(url);
    // A gateway that restarts hands over the sessions of clients that resume.
    if (resumes) target.searchParams.set("resume", this.sessionId);
    else target.searchParams.set("resumes", "1");
    this.refusal = null;
    const socket = new WebSocket(target.href, protocols);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      if (!resumes || !this.resume) return;
      const { token } = this.resume;
      const received = this.position.describe(this.log.sent);
      socket.send(JSON.stringify({ type: "session.resume", token, last_seq: this.lastSeq, received }));
    };
    socket.onmessage = ({ data }) => { if (socket === this.socket) this.#receive(data); };
    await new Promise((resolve) => {
      socket.onclose = ({ code }) => {
        if (socket === this.socket) this.#lost(code);
        resolve(null);
      };
      this.#established = () => resolve(null);
      if (resumes) pause(ATTEMPT_MS, this.ending.signal).then(() => {
        if (socket === this.socket && this.state === "reconnecting" && !this.#isResumed) {
          this.socket = null;
          socket.close();
          resolve(null);
        }
      });
    });
  }

  /** @type {() => void} */
  #established = () => {};
  #isResumed = false;

  /** @param {string | ArrayBuffer} message */
  #receive(message) {
    /** @type {ServerEvent} */
    let event;
    try {
      event = this.reader.read(message);
    } catch (error) {
      this.fail(error); // the server is broken, and so would be the session
      return;
    }
    if (event.seq) {
      if (event.seq <= this.lastSeq) return; // sent again, and received before
      this.lastSeq = event.seq;
    }
    this.position.receive(event);
    this.writer.receive(event);
    if (event.type === "session.queued") {
      this.#enter("queued", { position: event.position, etaMs: event.eta_ms });
    } else if (event.type === "error" && this.state !== "open" && !this.#isResumed) {
      this.refusal = event.error;
      return;
    } else if (event.type === "session.created") {
      this.sessionId = event.session.id;
      this.resume = event.resume ?? null;
      this.#goOn(0);
    } else if (event.type === "session.resumed") {
      this.sessionId = event.session.id; // another one if the session has moved to another pod
      this.resume = event.resume;
      this.#isResumed = true;
      this.#goOn(event.input_messages);
    } else if (event.type === "session.migrate" && event.session_id) {
      this.sessionId = event.session_id; // the pod of the former id is lost
    }
    const bytes = typeof message === "string" ? message.length : message.byteLength;
    if (!this.quiet.has((event.error ?? event.warning)?.event_id)) this.on.onEvent(event, bytes);
  }

  /** @param {string | undefined} id */
  #silence(id) {
    this.quiet.delete(id);
    this.quiet.add(id);
    if (this.quiet.size > MAX_QUIET) this.quiet.delete(this.quiet.values().next().value);
  }

  /**
   * Sends what the server lacks, and from now on everything at once.
   * @param {number} received Messages of this session that the server has.
   */
  #goOn(received) {
    const lacking = this.log.since(received);
    if (!lacking) { // over five minutes of sound were lost with the connection
      this.#end(4411, null);
      this.socket?.close(1000);
      return;
    }
    this.holds = false;
    for (const message of lacking) this.socket?.send(message);
    this.#enter("open");
    this.#established();
  }

  /** @param {number} code */
  #lost(code) {
    const reason = describeClose(code);
    this.socket = null;
    this.holds = true;
    this.#isResumed = false;
    if (this.state === "closed") return;
    if (this.state === "reconnecting") {
      if (code === 1013) this.#enter("reconnecting", { reason: describeDelay(this.refusal?.code) });
      else if (!reason.resumable) this.#end(code, this.refusal);
    } else if (this.state === "open" && reason.resumable && this.resume) {
      this.#enter("reconnecting", { reason });
      void this.#reconnect(this.resume.ttl_ms);
    } else {
      this.#end(code, this.refusal);
    }
  }

  /** @param {number} ttlMs */
  async #reconnect(ttlMs) {
    const until = performance.now() + ttlMs;
    for (let attempt = 0; this.state === "reconnecting"; attempt++) {
      const longest = Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 2 ** attempt);
      if (attempt) await pause(longest * (0.5 + this.random() / 2), this.ending.signal);
      if (this.state !== "reconnecting") return;
      if (performance.now() > until) { this.#end(4411, this.refusal); return; }
      try {
        await this.#connect(true);
      } catch {
        // The next attempt asks for another secret.
      }
    }
  }

  /**
   * @param {number} code
   * @param {any} error The error object of the server, or null.
   */
  #end(code, error) {
    this.ending.abort();
    this.holds = true;
    this.#enter("closed", { ...describeClose(code), error });
    this.#established();
  }

  /**
   * @param {ConnectionState} state
   * @param {any} [detail]
   */
  #enter(state, detail) {
    if (!NEXT[this.state].includes(state)) return;
    this.state = state;
    this.on.onState(state, detail);
  }

  /** @param {import("./message-log.js").Message} message */
  #write(message) {
    this.log.add(message);
    if (!this.holds) this.socket?.send(message);
  }
}
