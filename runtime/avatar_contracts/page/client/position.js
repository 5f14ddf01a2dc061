/** What this side has of its session, for a pod that continues it after the loss of another one. */

const UNCOUNTED = ["response.output_audio.delta", "response.video.delta", "response.video.dropped", "warning"];
const KEPT = 128; // events

/** @typedef {import("./connection.js").ServerEvent} ServerEvent */

export class Position {
  events = 0;
  /** @type {string[]} Keys of the last events. */
  last = [];
  /** @type {string | null} */
  responseId = null;
  frames = 0;
  dropped = 0;
  audioBytes = 0;

  /**
   * Counts a message of the server.
   * @param {ServerEvent} event
   */
  receive(event) {
    if (event.seq && !UNCOUNTED.includes(event.type)) {
      this.events++;
      this.last.push(keyOf(event));
      if (this.last.length > KEPT) this.last.shift();
    }
    if (event.type === "response.created") {
      this.responseId = event.response.id;
      this.frames = this.dropped = this.audioBytes = 0;
    } else if (event.response_id !== this.responseId) {
      return;
    } else if (event.type === "response.video.delta") {
      this.frames++;
    } else if (event.type === "response.video.dropped") {
      this.dropped += event.last_frame_index - event.first_frame_index + 1;
    } else if (event.type === "response.output_audio.delta") {
      this.audioBytes += event.data?.length ?? decodedLength(event.delta);
    }
  }

  /**
   * Returns `received` of `session.resume`.
   * @param {number} messages That were sent.
   */
  describe(messages) {
    const { events, last, responseId, frames, dropped, audioBytes } = this;
    return {
      events, last_events: last.join(""), messages, response_id: responseId, frames, dropped,
      audio_bytes: audioBytes,
    };
  }
}

/**
 * Returns the key of an event: the FNV-1a hash of what it is about.
 * @param {ServerEvent} event
 */
export function keyOf({ type, response_id: responseId, response, item_id: itemId, item, error }) {
  const about = [type, responseId || response?.id, itemId || item?.id, error?.code];
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(about.map((part) => part ?? "").join("|"))) {
    hash = Math.imul(hash ^ byte, 0x01000193);
  }
  return (hash >>> 0).toString(16).padStart(8, "0");
}

/** @param {string} base64 */
function decodedLength(base64) {
  const padding = base64.endsWith("==") ? 2 : Number(base64.endsWith("="));
  return Math.floor(base64.length * 3 / 4) - padding;
}
