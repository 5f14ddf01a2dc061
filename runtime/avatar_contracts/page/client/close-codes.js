/** What each close code of the protocol means, and whether the session can continue after it. */

/**
 * @typedef {object} CloseReason
 * @property {number} code Close code of the WebSocket.
 * @property {string} sentence One sentence for a person.
 * @property {boolean} resumable Whether a new connection may continue the session.
 */

/** @type {Readonly<Record<number, readonly [string, boolean]>>} */
const REASONS = {
  1000: ["The conversation has ended.", false],
  1001: ["The server went away.", true],
  1006: ["The connection was lost.", true],
  1007: ["The server could not read a message of this page.", false],
  1008: ["The server refused the messages of this page.", false],
  1009: ["A message of this page was too large for the server.", false],
  1011: ["The server had an internal error.", true],
  1012: ["The server restarts.", true],
  1013: ["All places are taken. Try again in a moment.", false],
  4401: ["The access key is missing, wrong or expired.", false],
  4403: ["The server does not accept connections from this page.", false],
  4404: ["This service or this avatar does not exist.", false],
  4408: ["The conversation ended because nothing was said for a while.", false],
  4409: ["The conversation continues in another connection.", false],
  4410: ["The conversation reached its longest duration.", false],
  4411: ["The conversation was interrupted for too long to continue.", false],
  4413: ["The connection is too slow for the conversation.", true],
  4429: ["The limit of conversations for this access key is reached.", false],
  4502: ["The service behind the avatar cannot be reached.", false],
};

/**
 * Why a session cannot be resumed at this moment (1013); the next attempt comes by itself.
 * @type {Readonly<Record<string, string>>}
 */
const DELAYS = {
  rate_limit_exceeded: "The connection was lost too often. The server lets it wait some seconds.",
  no_capacity: "The server has too many connections at the moment.",
  not_ready: "The server of this conversation does not answer at the moment.",
};

/**
 * Returns why a session that is being resumed has to wait.
 * @param {string | undefined} error Code of the error of the server.
 * @returns {CloseReason}
 */
export function describeDelay(error = "") {
  const sentence = DELAYS[error] ?? "The server cannot continue the conversation at the moment.";
  return { code: 1013, sentence, resumable: true };
}

/**
 * Returns what a close code means.
 * @param {number} code
 * @returns {CloseReason}
 */
export function describeClose(code) {
  const [sentence, resumable] = REASONS[code] ?? [
    `The connection was closed with the code ${code}.`, false,
  ];
  return { code, sentence, resumable };
}
