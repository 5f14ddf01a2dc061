/** What was sent, by number: a server that resumes a session says which messages it lacks. */

const KEPT = 8192; // messages
const KEPT_BYTES = 16 << 20; // five minutes of sound in base64; a session waits for 30 s

/** @typedef {string | Uint8Array<ArrayBuffer>} Message Text counts a byte for each character. */

export class MessageLog {
  constructor() {
    /** @type {Message[]} */
    this.messages = [];
    this.first = 0; // number of the first message that is kept
    this.bytes = 0;
  }

  /**
   * Adds a message; the oldest ones are forgotten.
   * @param {Message} message
   */
  add(message) {
    this.messages.push(message);
    this.bytes += message.length;
    while (this.messages.length > KEPT || this.bytes > KEPT_BYTES) {
      this.bytes -= this.messages[0].length;
      this.messages.shift();
      this.first++;
    }
  }

  /** How many messages were sent in all. */
  get sent() {
    return this.first + this.messages.length;
  }

  /**
   * Returns the messages from a number on, or null if some of them are forgotten.
   * @param {number} number From 0.
   * @returns {Message[] | null}
   */
  since(number) {
    return number < this.first ? null : this.messages.slice(number - this.first);
  }
}
