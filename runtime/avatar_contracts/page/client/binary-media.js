/** Binary messages: a header of 32 bytes, then the media. docs/wire-protocol.md describes the fields. */

import { SessionError } from "./errors.js";
import { encodeSamples, RATE, toBytes } from "./pcm.js";

/** @typedef {import("./connection.js").ServerEvent} ServerEvent */

const MAGIC = 0xa7;
const VERSION = 1;
const HEADER_BYTES = 32;
const NO_FRAME = 0xffffffff;
const MODES = /** @type {Record<number, string>} */ ({ 1: "jpeg", 2: "h264", 3: "fmp4" });
const OUTPUT_AUDIO = 4;
const INPUT_AUDIO = 16;
const KEYFRAME = 1;
const IDLE = 4;
const PATCH = 8;
const PATCH_BYTES = 12; // before the image
const MAX_RESPONSES = 64; // whose number is known; a server sends media of the last one only

/** Turns messages of a server into events; media of a binary message has `data` for `delta`. */
export class MessageReader {
  constructor() {
    this.rate = RATE;
    /** @type {Map<number, string>} Ids of the last responses by their `response_ref`. */
    this.responses = new Map();
    /** @type {Record<string, unknown>} The content part that was announced last. */
    this.part = {};
  }

  /**
   * Returns the event of a message.
   * @param {string | ArrayBuffer} message
   * @returns {ServerEvent}
   * @throws {SessionError} A binary message is wrong; its code is `invalid_binary_frame`.
   */
  read(message) {
    if (typeof message !== "string") return this.#media(message);
    const event = JSON.parse(message);
    this.#observe(event);
    return event;
  }

  /** @param {ServerEvent} event */
  #observe(event) {
    if (event.type === "session.created" || event.type === "session.updated") {
      this.rate = event.session.audio?.output?.format?.rate ?? RATE;
    } else if (event.type === "response.created") {
      this.responses.set(event.response_ref, event.response.id);
      if (this.responses.size > MAX_RESPONSES) {
        this.responses.delete(/** @type {number} */ (this.responses.keys().next().value));
      }
    } else if (event.type === "response.content_part.added") {
      const { item_id, output_index, content_index } = event;
      this.part = { item_id, output_index, content_index };
    }
  }

  /** @param {ArrayBuffer} message @returns {ServerEvent} */
  #media(message) {
    const view = new DataView(message);
    if (message.byteLength < HEADER_BYTES) throw wrong("message", message.byteLength, HEADER_BYTES);
    check("magic", view.getUint8(0), MAGIC);
    check("version", view.getUint8(1), VERSION);
    check("payload_length", view.getUint32(20), message.byteLength - HEADER_BYTES);
    const kind = view.getUint8(2), flags = view.getUint8(3), seq = view.getUint32(4);
    const mode = MODES[kind];
    if (!mode && kind !== OUTPUT_AUDIO) throw wrong("kind", kind, [...Object.keys(MODES), OUTPUT_AUDIO]);
    const offset = Number(view.getBigUint64(24));
    const isIdle = Boolean(flags & IDLE);
    const media = {
      ...(seq ? { seq } : {}), epoch: view.getUint32(8), offset_samples: offset,
      pts_ms: offset * 1000 / this.rate, data: new Uint8Array(message, HEADER_BYTES),
      response_id: isIdle ? null : this.responses.get(view.getUint32(12)) ?? null,
    };
    if (!mode) return { type: "response.output_audio.delta", ...this.part, ...media };
    const place = flags & PATCH ? placeOf(view) : null;
    if (place) media.data = media.data.subarray(PATCH_BYTES);
    return {
      type: "response.video.delta", mode, codec: mode === "jpeg" ? "jpeg" : "h264",
      item_id: isIdle ? null : this.part.item_id, output_index: 0, frame_index: view.getUint32(16),
      keyframe: Boolean(flags & KEYFRAME), idle: isIdle, ...media,
      ...place,
    };
  }
}

/** Writes the sound of the client in the transport of the session. */
export class SoundWriter {
  isBinary = false;
  messages = 0;
  samples = 0;

  /**
   * Takes in an event of the server: it says from when on binary messages are read.
   * @param {ServerEvent} event
   */
  receive(event) {
    const transport = event.session?.avatar?.transport;
    if (transport) this.isBinary = transport === "binary";
  }

  /**
   * Returns the message of a piece of sound.
   * @param {Int16Array} samples
   * @returns {string | Uint8Array<ArrayBuffer>}
   */
  write(samples) {
    const before = this.samples;
    this.samples += samples.length;
    if (!this.isBinary) {
      return JSON.stringify({ type: "input_audio_buffer.append", audio: encodeSamples(samples) });
    }
    const payload = toBytes(samples);
    const message = new Uint8Array(HEADER_BYTES + payload.length);
    const view = new DataView(message.buffer);
    view.setUint8(0, MAGIC);
    view.setUint8(1, VERSION);
    view.setUint8(2, INPUT_AUDIO);
    view.setUint32(4, ++this.messages);
    view.setUint32(16, NO_FRAME);
    view.setUint32(20, payload.length);
    view.setBigUint64(24, BigInt(before));
    message.set(payload, HEADER_BYTES);
    return message;
  }
}

/**
 * Returns where the image of a patch belongs, and over which picture.
 * @param {DataView} view Of the whole message.
 */
function placeOf(view) {
  const needed = HEADER_BYTES + PATCH_BYTES;
  if (view.byteLength < needed) throw wrong("message", view.byteLength, needed);
  const rect = [0, 2, 4, 6].map((offset) => view.getUint16(HEADER_BYTES + offset));
  return { rect, source_frame: view.getUint32(HEADER_BYTES + 8) };
}

/**
 * @param {string} field
 * @param {number} value
 * @param {number} expected
 */
function check(field, value, expected) {
  if (value !== expected) throw wrong(field, value, expected);
}

/**
 * @param {string} field
 * @param {number} value
 * @param {unknown} expected
 */
function wrong(field, value, expected) {
  return new SessionError("invalid_binary_frame", `${field} is ${value}, must be ${expected}`);
}
