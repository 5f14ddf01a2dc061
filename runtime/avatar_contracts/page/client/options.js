/** What a program says about the session that it wants. */

/**
 * @typedef {object} Options
 * @property {string | URL} url Of the gateway or the runtime: `https:`, `http:`, `wss:` or `ws:`.
 * @property {string} [model] Name of the service, `NAMESPACE/NAME`. A gateway requires it.
 * @property {string} [token] API key of the gateway; a client secret is requested with it.
 * @property {() => Promise<string>} [clientSecret] Returns a fresh client secret for each
 *   connection, in place of `token`: from your own server, which knows the API key.
 * @property {string} [avatar] Name of the avatar; the default is the service's.
 * @property {HTMLCanvasElement | OffscreenCanvas} [canvas] Where the avatar is drawn.
 * @property {HTMLVideoElement} [video] Plays the avatar, in place of a canvas: as one file by
 *   MediaSource, or as frames if the browser cannot.
 * @property {(frame: import("./decoders.js").Frame) => void} [onFrame] Each frame as it is
 *   received, encoded.
 * @property {(sound: {samples: Int16Array, responseId: string, ptsMs: number}) => void} [onAudio]
 *   Sound as it is received.
 * @property {boolean | MediaStream} [microphone] Listen from the start. Defaults to false.
 * @property {"auto" | "h264" | "jpeg" | "fmp4" | "none"} [mode] Of the video. `auto` is `fmp4` with a
 *   video element, H.264 where it can be decoded, `jpeg` without a canvas. Defaults to `auto`.
 * @property {"json" | "binary"} [transport] Of media, both ways. Defaults to `json`.
 * @property {"clock" | "ack"} [flow] What says how much was heard: the server's clock, or this side,
 *   so that a page that pauses loses no sound. Defaults to `clock`.
 * @property {"none" | "stream"} [idle] Whether the avatar moves while it is silent. Defaults to
 *   `none`; a file always moves.
 * @property {number} [waitMs] How long to wait for a free place. Defaults to 0.
 * @property {Record<string, unknown>} [session] Other fields of `session.update`.
 * @property {AudioContext} [audioContext] Of 24 kHz, running. The default is an own one; without
 *   Web Audio nothing is heard.
 * @property {typeof WebSocket} [WebSocket] Defaults to the global one.
 * @property {typeof globalThis.fetch} [fetch] Defaults to the global one.
 */

/** The values of the options that have few. */
const VALUES = /** @type {const} */ ({
  mode: ["auto", "h264", "jpeg", "fmp4", "none"],
  transport: ["json", "binary"],
  flow: ["clock", "ack"],
  idle: ["none", "stream"],
});

/**
 * Checks the options that have few values, and those that contradict each other.
 * @param {Options} options
 * @throws {TypeError}
 */
export function checkOptions(options) {
  const { canvas, video, mode, session } = options;
  if (typeof video === "string") {
    throw new TypeError(`video is "${video}", must be a video element; the mode is the option "mode"`);
  }
  for (const [name, values] of Object.entries(VALUES)) {
    const value = /** @type {Record<string, unknown>} */ (options)[name];
    if (value === undefined || values.some((each) => each === value)) continue;
    throw new TypeError(`${name} is ${JSON.stringify(value)}, must be one of ${values.join(", ")}`);
  }
  const { region } = /** @type {any} */ (session)?.avatar?.video ?? {};
  if (region === "patch" && (canvas || video)) {
    throw new TypeError('session.avatar.video.region is "patch", which is not drawn; leave it out, or '
      + "leave out canvas and video and draw the frames yourself");
  }
  if (canvas && video) throw new TypeError("canvas and video are given, must be one of them");
  if (mode === "fmp4" && !video) throw new TypeError('mode is "fmp4", which needs a video element');
}

/**
 * Returns the address of the endpoint.
 * @param {Options} options
 * @returns {URL}
 */
export function endpoint({ url, model, avatar, waitMs }) {
  const address = new URL(url);
  address.protocol = address.protocol.replace(/^http/, "ws");
  if (address.pathname === "/") address.pathname = "/v1/realtime";
  const query = { model, avatar, wait_ms: waitMs ? String(waitMs) : undefined, refuse: "close" };
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) address.searchParams.set(name, value);
  }
  return address;
}
