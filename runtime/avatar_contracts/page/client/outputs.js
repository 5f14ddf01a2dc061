/** Where a session is seen and heard: a canvas with an AudioWorklet, or a file in a video element. */

import { decodesH264 } from "./decoders.js";
import { FilePlayer } from "./file-player.js";
import { RATE } from "./pcm.js";
import { SilentSound, WorkletSound } from "./sound.js";
import { Video } from "./video.js";

/** @typedef {import("./negotiation.js").Mode} Mode */
/** @typedef {import("./options.js").Options} Options */

/**
 * @typedef {object} Output
 * @property {import("./sound.js").Sound} sound
 * @property {Video | null} video Frames, one by one.
 * @property {FilePlayer | null} file It is the sound as well.
 */

/**
 * Returns the mode to ask the server for.
 * @param {Options} options
 * @param {boolean} [allowsFile]
 * @returns {Promise<Mode>}
 */
export async function chooseMode({ mode = "auto", canvas, video }, allowsFile = true) {
  if (mode !== "auto" && mode !== "fmp4") return mode;
  if (video && allowsFile && FilePlayer.isSupported()) return "fmp4";
  return (canvas || video) && await decodesH264() ? "h264" : "jpeg";
}

/**
 * @param {Options} options
 * @param {Mode} mode
 * @param {import("./file-player.js").FileHandlers
 *   & {onKeyframeNeeded: () => void, onRefused: () => void}} on
 * @returns {Promise<Output>}
 */
export async function openOutput({ canvas, video, audioContext }, mode, on) {
  if (mode === "fmp4" && video) {
    const file = new FilePlayer(video, on);
    return { sound: file, video: null, file };
  }
  const hasSound = audioContext || typeof AudioContext !== "undefined";
  const sound = hasSound ? await WorkletSound.open(audioContext) : new SilentSound();
  sound.onProgress = on.onProgress;
  const surface = canvas ?? (video && canvasIn(video));
  const pictures = surface ? new Video(surface, RATE, { ...on, onDrawn: () => {} }) : null;
  return { sound, video: pictures, file: null };
}

/**
 * Returns a canvas whose pictures a video element shows.
 * @param {HTMLVideoElement} video
 */
function canvasIn(video) {
  const canvas = document.createElement("canvas");
  canvas.getContext("2d", { alpha: false }); // there is nothing to capture before
  video.removeAttribute("src");
  video.srcObject = canvas.captureStream();
  video.play().catch(() => {}); // without sound it needs no gesture
  return canvas;
}
