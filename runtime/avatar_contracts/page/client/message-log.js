/** What was sent, by number: a server that resumes a session says which messages it lacks. */

const KEPT = 8192; // messages
const KEPT_CHARACTERS = 16 << 20; // five minutes of sound in base64; a session waits for 30 s

export class MessageLog {
  constructor() {
    /** @type {string[]} */
    this.messages = [];
    this.first = 0; // number of the first message that is kept
    this.characters = 0;
  }

  /**
   * Adds a message; the oldest ones are forgotten.
   * @param {string} text
   */
  add(text) {
    this.messages.push(text);
    this.characters += text.length;
    while (this.messages.length > KEPT || this.characters > KEPT_CHARACTERS) {
      this.characters -= this.messages[0].length;
      this.messages.shift();
      this.first++;
    }
  }

  /**
   * Returns the messages from a number on, or null if some of them are forgotten.
   * @param {number} number From 0.
   * @returns {string[] | null}
   */
  since(number) {
    return number < this.first ? null : this.messages.slice(number - this.first);
  }
}
