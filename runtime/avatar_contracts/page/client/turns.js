/** Requests of the program to speak: one after the other, each from its request to its last sound. */

import { SessionError } from "./errors.js";
import { sendPaced } from "./pacing.js";

/** @typedef {import("./connection.js").Connection} Connection */
/** @typedef {import("./connection.js").ServerEvent} ServerEvent */
/** @typedef {{status: string, responseId: string | null}} TurnResult */

/**
 * @typedef {object} Turn
 * @property {() => Promise<boolean>} send Whether all of it was sent.
 * @property {AbortController} ending
 * @property {(result: TurnResult) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {string} itemId Of a text.
 * @property {string | null} responseId
 */

const MAX_TURNS = 16;
const MAX_TEXT = 16384;

export class Turns {
  /**
   * @param {Connection} connection
   * @param {() => void} onRequest A request is sent.
   */
  constructor(connection, onRequest) {
    this.connection = connection;
    this.onRequest = onRequest;
    /** @type {Turn[]} The first one is active. */
    this.turns = [];
    this.texts = 0;
    /** @type {unknown} Of the session; undefined until it is known. */
    this.detection = undefined;
    this.detectsTurns = true;
  }

  /**
   * Lets the avatar speak, or hear, a recording.
   * @param {Int16Array} samples
   * @returns {Promise<TurnResult>}
   */
  play(samples) {
    return this.#add("", async (turn) => {
      this.setDetection(false); // the recording is one turn, whatever silence is in it
      const { connection } = this;
      const all = await sendPaced(samples, (part) => connection.sendSound(part), turn.ending.signal);
      if (!all) return false;
      connection.send({ type: "input_audio_buffer.commit" });
      // In drive mode the response has started with the first sound, and this starts nothing new.
      connection.send({ type: "response.create" }, { isQuiet: true });
      return true;
    });
  }

  /**
   * Lets the avatar say a text.
   * @param {string} text
   * @returns {Promise<TurnResult>}
   * @throws {SessionError} The service says no text.
   */
  say(text) {
    if (!text.trim() || text.length > MAX_TEXT) {
      throw new RangeError(`the text has ${text.length} characters, must have 1 to ${MAX_TEXT}`);
    }
    const id = `js_${++this.texts}_${Math.floor(Math.random() * 2 ** 40).toString(36)}`;
    return this.#add(id, async () => {
      const content = [{ type: "input_text", text }];
      this.connection.send({
        type: "conversation.item.create", event_id: id,
        item: { id, type: "message", role: "user", content },
      });
      return true;
    });
  }

  /**
   * Lets the server find the turns of the microphone as the service does by default, or not.
   * @param {boolean} detects
   */
  setDetection(detects) {
    if (detects === this.detectsTurns) return;
    this.detectsTurns = detects;
    const input = { turn_detection: detects ? this.detection ?? null : null };
    this.connection.send({ type: "session.update", session: { type: "realtime", audio: { input } } });
  }

  /**
   * Takes in an event of the server.
   * @param {ServerEvent} event
   */
  receive(event) {
    const turn = this.turns[0];
    if (event.type === "session.created") {
      this.detection = event.session.audio?.input?.turn_detection;
      this.detectsTurns = Boolean(this.detection);
    }
    if (!turn) return;
    if (event.type === "conversation.item.added" && event.item.id === turn.itemId) {
      this.connection.send({ type: "response.create" });
    } else if (event.type === "response.created") {
      turn.responseId ??= event.response.id;
    } else if (event.type === "response.done" && event.response.id === turn.responseId) {
      this.#next();
    } else if (event.type === "error" || event.type === "warning") {
      const { event_id: id, code, message } = event[event.type];
      const isRefusal = event.type === "error" || code === "unsupported_in_mode";
      if (id && id === turn.itemId && isRefusal) {
        turn.reject(new SessionError(code, message));
        this.#next();
      }
    }
  }

  /**
   * Resolves the request whose response has been heard completely.
   * @param {string} responseId
   * @param {string} status
   */
  finish(responseId, status) {
    const turn = this.finishing.get(responseId);
    this.finishing.delete(responseId);
    turn?.resolve({ status, responseId });
  }

  /** @type {Map<string, Turn>} Sent completely by the server, not yet heard. */
  finishing = new Map();

  /**
   * Ends all requests.
   * @param {Error} [error] Instead of the status `cancelled`.
   * @returns {boolean} Whether one was active.
   */
  cancel(error) {
    const ended = [...this.turns, ...this.finishing.values()];
    this.turns = [];
    this.finishing.clear();
    for (const turn of ended) {
      turn.ending.abort();
      if (error) turn.reject(error);
      else turn.resolve({ status: "cancelled", responseId: turn.responseId });
    }
    return ended.length > 0;
  }

  /**
   * Ends all requests and, at the server, the response and what it has sent.
   * @param {import("./timeline.js").Moment | null} moment What is heard now.
   */
  interrupt(moment) {
    const { connection } = this;
    const quiet = { isQuiet: true };
    // Sound of turns that wait goes first, so that none of them starts after the cancel.
    if (this.cancel()) connection.send({ type: "input_audio_buffer.clear" }, quiet);
    connection.send({ type: "response.cancel" }, quiet);
    connection.send({ type: "output_audio_buffer.clear" }, quiet);
    if (moment) {
      connection.send({
        type: "conversation.item.truncate", item_id: moment.itemId, content_index: 0,
        audio_end_ms: Math.floor(moment.ptsMs),
      }, quiet);
    }
  }

  /**
   * @param {string} itemId
   * @param {(turn: Turn) => Promise<boolean>} send
   * @returns {Promise<TurnResult>}
   */
  #add(itemId, send) {
    if (this.turns.length >= MAX_TURNS) {
      throw new RangeError(`${this.turns.length} requests wait, at most ${MAX_TURNS} may`);
    }
    return new Promise((resolve, reject) => {
      /** @type {Turn} */
      const turn = {
        send: () => send(turn), ending: new AbortController(), resolve, reject, itemId,
        responseId: null,
      };
      this.turns.push(turn);
      if (this.turns.length === 1) this.#begin(turn);
    });
  }

  /** @param {Turn} turn */
  #begin(turn) {
    this.onRequest();
    turn.send().catch(turn.reject);
  }

  #next() {
    const [turn] = this.turns.splice(0, 1);
    if (turn.responseId) this.finishing.set(turn.responseId, turn);
    if (this.turns.length) this.#begin(this.turns[0]);
  }
}
