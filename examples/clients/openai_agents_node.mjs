// @openai/agents-realtime: three turns of a microphone with an agent of default settings.
//
// Usage: node openai_agents_node.mjs ws://127.0.0.1:8080 SPEECH.wav

import { readFileSync } from "node:fs";
import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession } from "@openai/agents-realtime";

const TURNS = 3;
const [server, path] = process.argv.slice(2);
const model = process.env.AVATAR_MODEL ?? "default/concierge";
const apiKey = process.env.OPENAI_API_KEY ?? "none";
const result = { turns: 0, sound_bytes: 0, errors: [] };

const agent = new RealtimeAgent({ name: "Concierge", instructions: "Repeat what you hear." });
const transport = new OpenAIRealtimeWebSocket({ url: `${server}/v1/realtime?model=${model}` });
const session = new RealtimeSession(agent, { transport, model });

session.on("error", (error) => result.errors.push(JSON.stringify(error)));
session.on("audio", (event) => (result.sound_bytes += event.data.byteLength));
session.on("agent_end", () => {
  result.turns += 1;
  if (result.turns === TURNS) {
    clearInterval(microphone);
    session.close();
    console.log(JSON.stringify(result));
  }
});
await session.connect({ apiKey });

// A file of 24 kHz, sent as a microphone does: in pieces of 100 ms, and then silence.
const sound = readFileSync(path).subarray(44);
let at = 0;
const microphone = setInterval(() => {
  const piece = at < sound.length ? sound.subarray(at, at + 4800) : Buffer.alloc(4800);
  at += 4800;
  session.sendAudio(new Uint8Array(piece).buffer);
}, 100);
