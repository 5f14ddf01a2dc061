/** The credential of a connection. A browser cannot set headers on a WebSocket. */

import { SessionError } from "./errors.js";

/**
 * Exchanges an API key for a client secret, which lives for some minutes.
 * @param {URL} url Of the endpoint, such as `https://HOST/v1/realtime`.
 * @param {string} key API key.
 * @param {string | undefined} model Name of the service, `NAMESPACE/NAME`.
 * @param {typeof globalThis.fetch} [fetch]
 * @returns {Promise<string>}
 * @throws {SessionError} The gateway refuses the key, or cannot be reached.
 */
export async function requestClientSecret(url, key, model, fetch = globalThis.fetch) {
  const address = new URL(`${url.pathname}/client_secrets`, url);
  address.protocol = address.protocol.replace(/^ws/, "http");
  let answer, body;
  try {
    answer = await fetch(address, {
      method: "POST",
      headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
      body: JSON.stringify({ session: { type: "realtime", model } }),
    });
    body = await answer.json();
  } catch (error) {
    throw new SessionError("unreachable", "The server cannot be reached.", { cause: error });
  }
  if (!answer.ok) {
    const { code = "unknown", message = `The server answered ${answer.status}.` } = body.error ?? {};
    throw new SessionError(code, message, { status: answer.status });
  }
  return body.value;
}

/**
 * Returns the subprotocols to offer.
 * @param {import("./connection.js").Address} address
 * @returns {Promise<string[]>}
 */
export async function subprotocols({ url, key, model, fetch, clientSecret }) {
  if (!key && !clientSecret) return ["realtime"];
  const secret = clientSecret
    ? await clientSecret() : await requestClientSecret(url, key ?? "", model, fetch);
  return ["realtime", `openai-insecure-api-key.${secret}`];
}
