/** Recordings to speak: the sample of the page, a file of the user, or syllables. */

import { fromWav, toPcm16 } from "./client/index.js";

const RATE = 24000;
const MAX_S = 1800; // of a file; decoded it takes 96 kB a second
const VOWELS = [[730, 1090], [270, 2290], [300, 870], [530, 1840]]; // formants, Hz

/** @returns {Promise<Int16Array>} */
export async function sample() {
  const answer = await fetch("page/sample.wav");
  if (!answer.ok) throw new Error("The sample cannot be loaded.");
  return fromWav(await answer.arrayBuffer());
}

/**
 * Returns the samples of a sound file that the browser can decode.
 * @param {File} file
 * @returns {Promise<Int16Array>}
 */
export async function ofFile(file) {
  const decoder = new OfflineAudioContext(1, 1, RATE);
  let decoded;
  try {
    decoded = await decoder.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error("The browser cannot read this sound file.");
  }
  if (decoded.duration > MAX_S) throw new Error(`The file is longer than ${MAX_S / 60} minutes.`);
  return render(Math.ceil(decoded.duration * RATE), (context) => {
    const source = new AudioBufferSourceNode(context, { buffer: decoded });
    source.connect(context.destination);
    source.start();
  });
}

/**
 * Returns eight syllables: a buzz through two resonators.
 * @returns {Promise<Int16Array>}
 */
export function babble() {
  const syllable = 0.36;
  return render(RATE * 3, (context) => {
    const voice = new OscillatorNode(context, { type: "sawtooth", frequency: 120 });
    const level = new GainNode(context, { gain: 0 });
    const filters = [0, 1].map(() => new BiquadFilterNode(context, { type: "bandpass", Q: 8 }));
    for (const filter of filters) voice.connect(filter).connect(level);
    level.connect(context.destination);
    for (let k = 0; k < 8; k++) {
      const at = 0.05 + k * syllable;
      VOWELS[k % VOWELS.length].forEach((hz, i) => filters[i].frequency.setValueAtTime(hz, at));
      level.gain.setTargetAtTime(1, at, 0.03);
      level.gain.setTargetAtTime(0, at + 0.24, 0.03);
    }
    voice.start();
  });
}

/**
 * @param {number} length Samples.
 * @param {(context: OfflineAudioContext) => void} build
 * @returns {Promise<Int16Array>}
 */
async function render(length, build) {
  const context = new OfflineAudioContext(1, Math.max(1, length), RATE);
  build(context);
  return toPcm16((await context.startRendering()).getChannelData(0));
}
