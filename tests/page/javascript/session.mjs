/** Drives a session with a real runtime, and prints what happened: `session.mjs URL WAV OPTIONS WS`. */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const CLIENT = new URL("../../../runtime/avatar_contracts/page/client/index.js", import.meta.url);
const { createSession, fromWav } = await import(CLIENT);
const [url, file, options, ws] = process.argv.slice(2);
const { buffer, byteOffset, byteLength } = readFileSync(file);
const speech = fromWav(buffer.slice(byteOffset, byteOffset + byteLength));

const frames = [], sound = [], faults = [], states = [], counts = {}, media = { json: 0, binary: 0 };
const session = createSession({
  url, ...JSON.parse(options),
  WebSocket: ws ? (await import(ws)).default : undefined,
  onFrame: (frame) => frames.push(frame),
  onAudio: ({ samples }) => sound.push(...samples),
});
for (const type of ["error", "warning"]) {
  session.addEventListener(type, ({ detail }) => faults.push(detail.code));
}
session.addEventListener("statechange", ({ detail }) => states.push(detail.state));
session.addEventListener("event", ({ detail: { type, delta } }) => {
  counts[type] = (counts[type] ?? 0) + 1;
  if (type.endsWith("_audio.delta") || type.endsWith("video.delta")) media[delta ? "json" : "binary"]++;
});
await session.ready;

const part = speech.subarray(0, 2 * 24000);
const begun = performance.now();
const played = await session.play(part);
const tookS = (performance.now() - begun) / 1000;
const isEqual = sound.length === part.length && part.every((sample, i) => sample === sound[i]);
const first = {
  played: played.status, tookS, isEqual, frames: frames.length, modes: [...new Set(frames.map(({ mode }) => mode))],
  pts: frames.every(({ ptsMs, frameIndex }) => ptsMs === frameIndex * 40),
  keyframes: frames.filter(({ keyframe }) => keyframe).length,
};

const digest = createHash("sha256"); // of the frames, in order
for (const { data } of frames) digest.update(data);

const before = counts["response.created"];
const two = [session.play(speech), session.play(speech)];
await new Promise((resolve) => session.addEventListener("speaking", resolve, { once: true }));
session.interrupt();
const cancelled = (await Promise.all(two)).map(({ status }) => status);
const again = await session.play(part.subarray(0, 12000)); // the session goes on
const responses = counts["response.created"] - before;

const { firstFrameMs, kbitPerS } = session.statistics();
const refused = await session.say("Good morning.").catch(({ code }) => code);
session.close();
console.log(JSON.stringify({
  first, cancelled, again: again.status, responses, refused, faults, states, firstFrameMs, kbitPerS,
  counts, digest: digest.digest("hex"), media,
}));
