/** What a session asks the server for, and what it goes on without if the server refuses it. */

/** @typedef {"jpeg" | "h264" | "fmp4" | "none"} Mode */

/**
 * @typedef {object} Wanted
 * @property {Mode} mode
 * @property {"json" | "binary"} [transport]
 * @property {"clock" | "ack"} [flow]
 * @property {"none" | "stream"} [idle]
 */

/** Fields of `session.avatar` that a session can do without. */
const OPTIONAL = /** @type {const} */ (["transport", "flow", "idle"]);

export class Negotiation {
  /**
   * @param {Wanted} wanted
   * @param {Record<string, any>} [session] Other fields of `session.update`, which win.
   */
  constructor(wanted, session = {}) {
    this.wanted = { ...wanted };
    this.session = session;
    this.eventId = ""; // of the last update
    this.isAgreed = false; // the server has accepted one
  }

  /** The `session.update` to send: all that is wanted, and later the mode, which may change. */
  get update() {
    const { mode, transport, flow, idle } = this.wanted;
    if (this.isAgreed) {
      return { type: "session.update", session: { type: "realtime", avatar: { video: { mode } } } };
    }
    const { avatar, ...others } = this.session;
    return {
      type: "session.update",
      session: {
        type: "realtime", ...others,
        avatar: {
          ...(transport ? { transport } : {}), ...(flow ? { flow: { mode: flow } } : {}),
          ...(idle ? { idle } : {}), ...avatar, video: { ...avatar?.video, mode },
        },
      },
    };
  }

  /**
   * Takes in an error of the server, and gives up what it refuses.
   * @param {{event_id?: string | null, param?: string | null}} error
   * @returns {"mode" | "others" | null} What to do without; null if the error is about something else.
   */
  giveUp({ event_id: id, param }) {
    if (!this.eventId || id !== this.eventId) return null;
    const refused = (/** @type {string} */ name) => {
      const path = `session.avatar.${name}`;
      return param === path || param?.startsWith(`${path}.`);
    };
    const field = OPTIONAL.find((name) => this.wanted[name] && refused(name));
    if (field) {
      delete this.wanted[field];
      return "others";
    }
    return refused("video.mode") && this.wanted.mode === "fmp4" ? "mode" : null;
  }
}
