/** Calls a function with each picture of the screen. */

const MAX_LEAD_S = 0.02;
const LONGEST_S = 0.1; // a longer pause is no period of the screen

/**
 * Calls `update` before each picture, until it returns false. A hidden page gets no pictures.
 * @param {(leadS: number) => boolean} update Gets how long after now the picture is seen on
 *   average: half of its period.
 */
export function followScreen(update) {
  if (typeof requestAnimationFrame === "undefined") return;
  let last = 0, periodS = 1 / 60;
  const draw = (/** @type {number} */ now) => {
    const elapsedS = (now - last) / 1000;
    last = now;
    if (elapsedS < LONGEST_S) periodS += 0.1 * (elapsedS - periodS);
    if (update(Math.min(periodS / 2, MAX_LEAD_S))) requestAnimationFrame(draw);
  };
  requestAnimationFrame(draw);
}
