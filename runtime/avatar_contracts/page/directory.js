/** What the server offers: services, avatars and their pictures. The key is in memory only. */

/** @typedef {{name: string, version: string, width?: number, height?: number, disclosure?: string}} Avatar */
/**
 * @typedef {object} Offer
 * @property {Avatar[]} avatars The default first.
 * @property {string} mode `drive`, `speech` or `bridge`; empty if the server does not say it.
 * @property {boolean} hears
 * @property {boolean} says_text
 * @property {boolean} preparation
 * @property {string | null} progress
 */

/** The server answered with an error. */
export class Refusal extends Error {
  /**
   * @param {number} status
   * @param {string} message
   */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export class Directory {
  key = "";
  model = "";

  /** @returns {Promise<string[]>} */
  async models() {
    const { data } = await this.#json("v1/models");
    return data.map((/** @type {{id: string}} */ { id }) => id);
  }

  /** @returns {Promise<Offer>} */
  async offer() {
    return this.#json(`v1/avatars?${this.#query()}`);
  }

  /**
   * @param {Avatar} avatar
   * @returns {Promise<Blob | null>} Null if there is none.
   */
  async picture({ name, version }) {
    const query = this.#query({ version });
    const answer = await this.#get(`v1/avatars/${encodeURIComponent(name)}/picture.jpg?${query}`);
    return answer.ok ? answer.blob() : null;
  }

  /** @param {Record<string, string>} [fields] */
  #query(fields = {}) {
    return new URLSearchParams({ ...(this.model ? { model: this.model } : {}), ...fields });
  }

  /** @param {string} path */
  async #json(path) {
    const answer = await this.#get(path);
    const body = await answer.json().catch(() => ({}));
    if (!answer.ok) {
      throw new Refusal(answer.status, body.error?.message ?? `The server answered ${answer.status}.`);
    }
    return body;
  }

  /** @param {string} path */
  async #get(path) {
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : undefined;
    try {
      return await fetch(path, { headers, cache: "no-store" });
    } catch {
      throw new Refusal(0, "The server cannot be reached.");
    }
  }
}
