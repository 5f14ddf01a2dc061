/** The error of this package. */

/** A session that cannot start or continue, or a request that the service refuses. */
export class SessionError extends Error {
  /**
   * @param {string} code Code of docs/wire-protocol.md, or `unreachable`, `aborted`, `closed`.
   * @param {string} message A sentence for a person.
   * @param {{status?: number, close?: number, cause?: unknown}} [details] HTTP status or close code.
   */
  constructor(code, message, details = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = "SessionError";
    this.code = code;
    this.status = details.status;
    this.close = details.close;
  }
}
