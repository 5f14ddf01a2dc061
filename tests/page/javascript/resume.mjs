/** Plays while the test cuts the connection, and prints what arrived: `resume.mjs URL WAV OPTIONS`. */

import { readFileSync } from "node:fs";

const CLIENT = new URL("../../../runtime/avatar_contracts/page/client/index.js", import.meta.url);
const { createSession, fromWav } = await import(CLIENT);
const [url, file, options] = process.argv.slice(2);
const { buffer, byteOffset, byteLength } = readFileSync(file);
const speech = fromWav(buffer.slice(byteOffset, byteOffset + byteLength));

const frames = [], sound = [], seqs = [], states = [], faults = [];
let latestMs = 0, lostAt = 0;
const session = createSession({
  url, ...JSON.parse(options), onFrame: ({ frameIndex }) => frames.push(frameIndex),
  onAudio: ({ samples }) => sound.push(...samples),
});
session.addEventListener("event", ({ detail: { seq } }) => { if (seq) seqs.push(seq); });
session.addEventListener("error", ({ detail }) => faults.push(detail.code));
session.addEventListener("statechange", ({ detail: { state, error } }) => {
  states.push(state);
  if (state === "reconnecting") lostAt = performance.now();
  if (state === "open" && lostAt) latestMs = Math.max(latestMs, performance.now() - lostAt);
  if (error) faults.push(error.code);
});
await session.ready;
console.log("ready");
const { status } = await session.play(speech);
session.close();
console.log(JSON.stringify({
  status, faults, latestMs, cuts: states.filter((state) => state === "reconnecting").length,
  isEqual: sound.length === speech.length && speech.every((sample, i) => sample === sound[i]),
  frames: frames.length, inOrder: frames.every((index, i) => index === i),
  seqsInOrder: seqs.every((seq, i) => seq === seqs[0] + i),
}));
