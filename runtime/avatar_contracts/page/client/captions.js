/** What the avatar and the user say, from the transcripts of a session. */

const TRANSCRIPT = new RegExp(
  "^(response\\.output_audio_transcript|conversation\\.item\\.input_audio_transcription)"
  + "\\.(delta|done|completed)$");
const MAX_ITEMS = 64;
const MAX_WAITING = 1024;

/** @typedef {{role: "avatar" | "user", id: string, text: string, isFinal: boolean}} Caption */

export class Captions {
  /** @type {Map<string, string>} */
  texts = new Map();
  /** @type {{caption: Caption, isHeard: (position: number) => boolean}[]} */
  waiting = [];

  /**
   * Adds the caption that an event changes, until its sound is heard.
   * @param {import("./connection.js").ServerEvent} event
   * @param {number} end Of the sound that came before the event, samples.
   */
  add(event, end) {
    const caption = this.take(event);
    if (!caption) return;
    const { role, isFinal } = caption;
    const isHeard = (/** @type {number} */ position) => (
      role === "user" || position > end || (isFinal && position === end));
    this.waiting.push({ caption, isHeard });
    if (this.waiting.length > MAX_WAITING) this.waiting.shift();
  }

  /**
   * Returns the captions whose sound has begun, and forgets them.
   * @param {number} position Samples that have been heard.
   * @returns {Caption[]}
   */
  takeHeard(position) {
    const heard = this.waiting.filter(({ isHeard }) => isHeard(position));
    if (heard.length) this.waiting = this.waiting.filter((each) => !heard.includes(each));
    return heard.map(({ caption }) => caption);
  }

  /** Forgets what the avatar has not said. */
  clear() {
    this.waiting = this.waiting.filter(({ caption }) => caption.role === "user");
  }

  /**
   * Returns the caption that an event changes, or null.
   * @param {import("./connection.js").ServerEvent} event
   * @returns {Caption | null}
   */
  take(event) {
    const match = TRANSCRIPT.exec(event.type);
    if (!match) return null;
    const id = event.item_id;
    const isFinal = match[2] !== "delta";
    const text = isFinal ? event.transcript : (this.texts.get(id) ?? "") + event.delta;
    if (isFinal) this.texts.delete(id);
    else this.texts.set(id, text);
    if (this.texts.size > MAX_ITEMS) this.texts.delete(this.texts.keys().next().value ?? "");
    return { role: match[1].startsWith("response") ? "avatar" : "user", id, text, isFinal };
  }
}
