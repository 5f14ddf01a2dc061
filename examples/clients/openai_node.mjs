// openai for Node.js: three turns of a microphone. It connects with wss: only.
//
// Usage: NODE_EXTRA_CA_CERTS=tls.crt node openai_node.mjs https://localhost:8080 SPEECH.wav

import { readFileSync } from "node:fs";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const TURNS = 3;
const [server, path] = process.argv.slice(2);
const model = process.env.AVATAR_MODEL ?? "default/concierge";
const apiKey = process.env.OPENAI_API_KEY ?? "none";
const result = { turns: 0, sound_bytes: 0, errors: [] };

const client = new OpenAI({ apiKey, baseURL: `${server}/v1` });
const realtime = new OpenAIRealtimeWS({ model }, client);

realtime.on("error", (error) => result.errors.push(String(error)));
realtime.on("response.output_audio.delta", (event) => {
  result.sound_bytes += Buffer.from(event.delta, "base64").length;
});
realtime.on("response.done", (event) => {
  result.turns += event.response.status === "completed";
  if (result.turns === TURNS) {
    clearInterval(microphone);
    realtime.close();
    console.log(JSON.stringify(result));
  }
});

// A file of 24 kHz, sent as a microphone does: in pieces of 100 ms, and then silence.
const sound = readFileSync(path).subarray(44);
let at = 0;
const microphone = setInterval(() => {
  if (realtime.socket.readyState !== 1) return;
  const piece = at < sound.length ? sound.subarray(at, at + 4800) : Buffer.alloc(4800);
  at += 4800;
  realtime.send({ type: "input_audio_buffer.append", audio: piece.toString("base64") });
}, 100);
