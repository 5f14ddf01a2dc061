/** What was sent and may have to be sent again after a lost connection, in order. */

import { RATE } from "./pcm.js";

const KEPT_S = 30; // the longest time after which a session can be resumed

/** @typedef {{type: string, event_id?: string, [field: string]: unknown}} ClientEvent */
/** @typedef {{at: number, samples: Int16Array} | {at: number, event: ClientEvent}} Entry */

/**
 * Which events of the server answer a request. A request without an entry has no answer.
 * @type {Readonly<Record<string, readonly string[]>>}
 */
export const ANSWERS = {
  "session.update": ["session.updated"],
  "input_audio_buffer.commit": ["input_audio_buffer.committed"],
  "input_audio_buffer.clear": ["input_audio_buffer.cleared"],
  "output_audio_buffer.clear": ["output_audio_buffer.cleared"],
  "conversation.item.create": ["conversation.item.added"],
  "conversation.item.delete": ["conversation.item.deleted"],
  "conversation.item.retrieve": ["conversation.item.retrieved"],
  "conversation.item.truncate": ["conversation.item.truncated"],
  "response.create": ["response.created"],
  "response.cancel": ["response.done"],
};

/** Sound by sample position, and requests until they are answered. */
export class InputLog {
  constructor() {
    /** @type {Entry[]} */
    this.entries = [];
    this.samples = 0;
  }

  /**
   * Adds sound.
   * @param {Int16Array} samples
   */
  addSound(samples) {
    this.entries.push({ at: this.samples, samples });
    this.samples += samples.length;
    const oldest = this.samples - KEPT_S * RATE;
    // Unanswered requests stay: there are few.
    this.entries = this.entries.filter(
      (entry) => !("samples" in entry) || entry.at + entry.samples.length > oldest);
  }

  /**
   * Adds a request, if it has an answer.
   * @param {ClientEvent} event
   */
  addRequest(event) {
    if (event.type in ANSWERS) this.entries.push({ at: this.samples, event });
  }

  /**
   * Forgets the oldest request that an event of the server answers.
   * @param {{type: string, error?: {event_id?: string}, warning?: {event_id?: string}}} answer
   */
  answer(answer) {
    const id = (answer.error ?? answer.warning)?.event_id;
    const index = this.entries.findIndex((entry) => "event" in entry && (
      id === undefined || id === null
        ? ANSWERS[entry.event.type].includes(answer.type) : entry.event.event_id === id));
    if (index >= 0) this.entries.splice(index, 1);
  }

  /**
   * Returns what a server that has received `samples` samples may lack.
   *
   * It has received every request before a sample that it has. Of those at its last sample, the
   * answered ones are forgotten already.
   * @param {number} samples
   * @returns {Entry[]}
   */
  since(samples) {
    return this.entries.flatMap(/** @returns {Entry[]} */ (entry) => {
      if (!("samples" in entry)) return entry.at >= samples ? [entry] : [];
      const rest = entry.samples.subarray(Math.max(0, samples - entry.at));
      return rest.length ? [{ at: Math.max(entry.at, samples), samples: rest }] : [];
    });
  }
}
