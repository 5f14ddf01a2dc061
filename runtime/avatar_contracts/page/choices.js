/** What the address of the page chooses, apart from the service and the avatar. */

/** The values of each parameter, the default first. */
export const CHOICES = /** @type {const} */ ({
  video: ["auto", "h264", "jpeg", "fmp4", "none"],
  transport: ["binary", "json"],
  flow: ["ack", "clock"],
  idle: ["stream", "none"],
});

/** @typedef {{[Name in keyof typeof CHOICES]: typeof CHOICES[Name][number]}} Choice */

/**
 * Returns what an address chooses; an unknown value is left out of account.
 * @param {URLSearchParams} query
 * @returns {Choice}
 */
export function choose(query) {
  const chosen = Object.entries(CHOICES).map(([name, values]) => (
    [name, values.find((value) => value === query.get(name)) ?? values[0]]));
  return Object.fromEntries(chosen);
}

/**
 * Returns a sentence for each value of an address that does not exist.
 * @param {URLSearchParams} query
 * @param {readonly string[]} avatars Their names, the default first; empty if they are unknown.
 * @returns {string[]}
 */
export function faults(query, avatars) {
  const found = [];
  for (const [name, values] of Object.entries(CHOICES)) {
    const asked = query.get(name);
    if (asked === null || values.some((value) => value === asked)) continue;
    found.push(`The address says ${name}=${shorten(asked)}, which is none of ${values.join(", ")}. `
      + `The page uses ${values[0]}.`);
  }
  const avatar = query.get("avatar");
  if (avatar && avatars.length && !avatars.includes(avatar)) {
    found.push(`The avatar ${shorten(avatar)} does not exist. The page shows ${avatars[0]}.`);
  }
  return found;
}

/** @param {string} text From an address, of any length. */
function shorten(text) {
  return text.length > 64 ? `${text.slice(0, 64)}…` : text;
}
