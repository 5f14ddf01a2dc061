/** The states of the page, what leads from one to the next, and what each one shows. */

/**
 * @typedef {"loading" | "locked" | "unavailable" | "ready" | "connecting" | "waiting" | "live"
 *   | "speaking" | "reconnecting" | "ended"} State
 */
/**
 * @typedef {"found" | "refused" | "failed" | "start" | "queued" | "opened" | "spoke" | "finished"
 *   | "lost" | "closed" | "choose"} Cause
 */

/** @type {Readonly<Record<State, Readonly<Partial<Record<Cause, State>>>>>} */
export const NEXT = {
  loading: { found: "ready", refused: "locked", failed: "unavailable" },
  locked: { found: "ready", refused: "locked", failed: "unavailable" },
  unavailable: { found: "ready", refused: "locked", failed: "unavailable" },
  ready: { start: "connecting", choose: "ready", found: "ready", refused: "locked", failed: "unavailable" },
  connecting: { queued: "waiting", opened: "live", closed: "ended", refused: "locked" },
  waiting: { queued: "waiting", opened: "live", closed: "ended", refused: "locked" },
  live: { spoke: "speaking", finished: "live", lost: "reconnecting", closed: "ended" },
  speaking: { spoke: "speaking", finished: "live", lost: "reconnecting", closed: "ended" },
  // Sound that has arrived is heard while the connection is away.
  reconnecting: { opened: "live", closed: "ended", finished: "reconnecting", spoke: "reconnecting" },
  ended: { start: "connecting", choose: "ready", found: "ready", refused: "locked", failed: "unavailable" },
};

/**
 * What a state shows: a sentence, whether there is a session, and whether the user can act.
 * @type {Readonly<Record<State, {sentence: string, hasSession: boolean, canAct: boolean}>>}
 */
export const VIEW = {
  loading: { sentence: "Loading…", hasSession: false, canAct: false },
  locked: { sentence: "An access key is needed", hasSession: false, canAct: false },
  unavailable: { sentence: "Not available", hasSession: false, canAct: false },
  ready: { sentence: "Ready", hasSession: false, canAct: true },
  connecting: { sentence: "Connecting…", hasSession: true, canAct: false },
  waiting: { sentence: "Waiting for a free place…", hasSession: true, canAct: false },
  live: { sentence: "Connected", hasSession: true, canAct: true },
  speaking: { sentence: "Speaking", hasSession: true, canAct: true },
  reconnecting: { sentence: "The connection was lost. Reconnecting…", hasSession: true, canAct: false },
  ended: { sentence: "Ended", hasSession: false, canAct: true },
};

/**
 * Returns the next state; a cause that a state does not know changes nothing.
 * @param {State} state
 * @param {Cause} cause
 * @returns {State}
 */
export function advance(state, cause) {
  return NEXT[state][cause] ?? state;
}

/**
 * Returns the sentence for a caller that waits.
 * @param {number} position From 1.
 * @param {number | null} etaMs
 * @returns {string}
 */
export function queueSentence(position, etaMs) {
  const place = position === 1 ? "You are next" : `You are number ${position} in the queue`;
  if (etaMs === null || etaMs === undefined) return `${place}.`;
  const seconds = Math.max(1, Math.round(etaMs / 1000));
  const time = seconds < 90 ? `${seconds}\u00a0s` : `${Math.round(seconds / 60)}\u00a0min`;
  return `${place}, about ${time}.`;
}
