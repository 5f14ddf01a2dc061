/** Captions: the newest sentence that is heard, in at most two lines that follow the speech. */

/** @typedef {import("./client/captions.js").Caption} Caption */

const CHARACTER_MS = 60; // of quick speech; a service says when a sentence begins, not its words
const ROUNDING_PX = 2; // of heights, which the browser gives in whole pixels
const KEPT_MS = 4000; // after the speech

/**
 * Returns the last sentence of a text.
 * @param {string} text
 * @returns {string}
 */
export function lastSentence(text) {
  const sentences = [...new Intl.Segmenter(undefined, { granularity: "sentence" }).segment(text)];
  return sentences.findLast(({ segment }) => segment.trim())?.segment.trim() ?? "";
}

/**
 * Divides a sentence between words into parts that fit; a word that does not fit is a part.
 * @param {string} sentence
 * @param {(text: string) => boolean} fits
 * @returns {string[]}
 */
export function divide(sentence, fits) {
  if (fits(sentence)) return [sentence];
  const parts = [""];
  for (const { segment } of new Intl.Segmenter(undefined, { granularity: "word" }).segment(sentence)) {
    const last = parts[parts.length - 1];
    if (last.trim() && !fits((last + segment).trim())) parts.push(segment);
    else parts[parts.length - 1] += segment;
  }
  return parts.map((part) => part.trim()).filter(Boolean);
}

/** Shows one caption after the other in an element whose height is that of the lines it has. */
export class CaptionBand {
  /** @param {HTMLElement} band Contains one paragraph. */
  constructor(band) {
    this.band = band;
    this.line = /** @type {HTMLElement} */ (band.firstElementChild);
    /** @type {ReturnType<typeof setTimeout> | undefined} Until the next part. */
    this.following = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} Until the end. */
    this.ending = undefined;
    this.id = this.sentence = "";
  }

  /**
   * Shows what has begun to be heard.
   * @param {Caption} caption
   */
  show({ role, id, text, isFinal }) {
    // The end of what the avatar has said is no news, least of all after an interruption.
    if (role === "avatar" && isFinal) {
      if (id === this.id) this.end();
      return;
    }
    clearTimeout(this.ending);
    this.band.hidden = false;
    this.line.dataset.role = role;
    const sentence = (role === "user" ? "You: " : "") + lastSentence(text);
    if (id !== this.id || sentence !== this.sentence) {
      const grows = id === this.id && sentence.startsWith(this.sentence);
      Object.assign(this, { id, sentence });
      const parts = divide(sentence, (part) => this.#fits(part));
      this.#follow(grows ? parts.slice(-1) : parts);
    }
    if (isFinal) this.end();
  }

  /** The speech is over: the caption stays for some seconds. */
  end() {
    clearTimeout(this.ending);
    this.ending = setTimeout(() => this.clear(), KEPT_MS);
  }

  /** Forgets what was said. */
  clear() {
    clearTimeout(this.following);
    clearTimeout(this.ending);
    this.id = this.sentence = this.line.textContent = "";
  }

  /** @param {readonly string[]} parts */
  #follow([part = "", ...rest]) {
    clearTimeout(this.following);
    this.line.textContent = part;
    if (!rest.length) return;
    this.following = setTimeout(() => this.#follow(rest), part.length * CHARACTER_MS);
  }

  /** @param {string} text */
  #fits(text) {
    this.line.textContent = text;
    return this.line.scrollHeight <= this.band.clientHeight + ROUNDING_PX;
  }
}
