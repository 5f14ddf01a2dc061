/** How fast recorded sound is sent: a server keeps ten minutes and reads 1,000 events a second. */

import { RATE } from "./pcm.js";

/** Most sound that is sent ahead of its own duration. */
export const LEAD_S = 10;
/** Sound is sent in bursts. A steady stream would count as a microphone, whose late frames expire. */
export const BURST_S = 2;
/** Sound in one message. */
export const CHUNK_SAMPLES = RATE / 5;

/** Decides when the next part of a recording is due. */
export class Pacer {
  /** @param {number} startedAt Seconds, of any steady clock. */
  constructor(startedAt) {
    this.startedAt = startedAt;
    this.sent = 0;
  }

  /**
   * Returns how many samples may be sent now: none, or at least a burst.
   * @param {number} now Seconds.
   * @returns {number}
   */
  allowed(now) {
    const samples = Math.floor((now - this.startedAt + LEAD_S) * RATE) - this.sent;
    return samples >= BURST_S * RATE ? samples : 0;
  }

  /**
   * Returns after how many seconds the next burst is due.
   * @param {number} now Seconds.
   * @returns {number}
   */
  delay(now) {
    return Math.max(0, this.startedAt + this.sent / RATE + BURST_S - LEAD_S - now);
  }
}

/**
 * Sends a recording, piece by piece.
 * @param {Int16Array} samples
 * @param {(chunk: Int16Array) => void} send
 * @param {AbortSignal} signal Ends it early.
 * @param {() => number} [now] Seconds.
 * @returns {Promise<boolean>} Whether all of it was sent.
 */
export async function sendPaced(samples, send, signal, now = () => performance.now() / 1000) {
  const pacer = new Pacer(now());
  while (pacer.sent < samples.length && !signal.aborted) {
    const until = Math.min(samples.length, pacer.sent + pacer.allowed(now()));
    while (pacer.sent < until) {
      const end = Math.min(until, pacer.sent + CHUNK_SAMPLES);
      send(samples.subarray(pacer.sent, end));
      pacer.sent = end;
    }
    if (pacer.sent < samples.length) await pause(pacer.delay(now()) * 1000, signal);
  }
  return !signal.aborted;
}

/**
 * Waits, at most until the signal.
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const done = () => { clearTimeout(timer); signal?.removeEventListener("abort", done); resolve(); };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done);
    if (signal?.aborted) done();
  });
}
