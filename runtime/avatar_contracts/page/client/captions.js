/** What the avatar and the user say, from the transcripts of a session. */

const TRANSCRIPT = new RegExp(
  "^(response\\.output_audio_transcript|conversation\\.item\\.input_audio_transcription)"
  + "\\.(delta|done|completed)$");
const MAX_ITEMS = 64;

/** @typedef {{role: "avatar" | "user", id: string, text: string, isFinal: boolean}} Caption */

export class Captions {
  /** @type {Map<string, string>} */
  texts = new Map();

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
