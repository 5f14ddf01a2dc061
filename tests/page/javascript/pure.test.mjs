/** The parts of the package that do no I/O, and the states of the page. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const PAGE = new URL("../../../runtime/avatar_contracts/page/", import.meta.url);
const load = (name) => import(new URL(name, PAGE));
const { describeClose, describeDelay } = await load("client/close-codes.js");
const { codecOf } = await load("client/decoders.js");
const { BURST_S, LEAD_S, Pacer, sendPaced } = await load("client/pacing.js");
const pcm = await load("client/pcm.js");
const { Resampler } = await load("client/resampler.js");
const { SilentSound } = await load("client/sound.js");
const { Timeline } = await load("client/timeline.js");
const { Captions } = await load("client/captions.js");
const { divide, lastSentence } = await load("captions.js");
const choices = await load("choices.js");
const { advance, NEXT, queueSentence, VIEW } = await load("states.js");

test("samples survive base64 and the conversion to floats", () => {
  const all = Int16Array.from({ length: 65536 }, (_, i) => i - 32768);
  assert.deepEqual(pcm.decodeSamples(pcm.encodeSamples(all)), all);
  assert.deepEqual(pcm.toPcm16(pcm.fromPcm16(all)), all);
  assert.deepEqual([...pcm.toPcm16(Float32Array.of(2, -2))], [32767, -32768]);
});

test("a WAV file is read past chunks that are not sound, and refused in another format", () => {
  const file = new DataView(new ArrayBuffer(60));
  const text = (at, name) => [...name].forEach((c, i) => file.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); text(8, "WAVE"); text(12, "LIST"); file.setUint32(16, 3, true);
  text(24, "fmt "); file.setUint32(28, 16, true);
  file.setUint16(32, 1, true); file.setUint16(34, 1, true); file.setUint32(36, 24000, true);
  file.setUint16(46, 16, true);
  text(48, "data"); file.setUint32(52, 400, true); file.setInt16(56, -2, true); file.setInt16(58, 7, true);
  assert.deepEqual([...pcm.fromWav(file.buffer)], [-2, 7]);
  file.setUint16(34, 2, true);
  assert.throws(() => pcm.fromWav(file.buffer), /24000 Hz, 16 bits and 2 channels/);
  assert.throws(() => pcm.fromWav(new ArrayBuffer(4)), /must be a WAV file/);
});

test("a recording of any length is never more than the lead ahead, in bursts", async () => {
  for (const seconds of [0.1, 9, 210, 240, 900]) {
    const pacer = new Pacer(0);
    let now = 0, bursts = 0;
    while (pacer.sent < seconds * 24000) {
      const samples = Math.min(pacer.allowed(now), seconds * 24000 - pacer.sent);
      if (samples > 0) bursts++;
      pacer.sent += samples;
      assert.ok(pacer.sent / 24000 <= now + LEAD_S + 1e-9);
      if (pacer.sent < seconds * 24000) {
        assert.ok(pacer.delay(now) > 0 && pacer.delay(now) <= BURST_S + 1e-9);
        now += pacer.delay(now);
      }
    }
    assert.ok(now <= Math.max(0, seconds - LEAD_S) + BURST_S, `${seconds} s took ${now} s`);
    assert.ok(bursts <= 1 + seconds / BURST_S);
  }
});

test("all of a recording is sent, in order, until it is aborted", async () => {
  const recording = Int16Array.from({ length: 24000 * 9 + 7 }, (_, i) => i);
  const sent = [];
  const ending = new AbortController();
  assert.equal(await sendPaced(recording, (part) => sent.push(...part), ending.signal), true);
  assert.deepEqual(Int16Array.from(sent), recording);
  const long = new Int16Array(24000 * 60);
  const sending = sendPaced(long, () => {}, ending.signal);
  ending.abort();
  assert.equal(await sending, false);
});

test("positions, responses and times belong together", () => {
  const timeline = new Timeline(24000);
  assert.equal(timeline.at(0), null);
  const add = (responseId, ptsMs, samples) => timeline.append({ responseId, itemId: `i${responseId}`, ptsMs }, samples);
  add("a", 0, 960); add("a", 40, 960); add("b", 0, 960); add("b", 80, 960); // 40 ms are missing
  assert.equal(timeline.segments.length, 3);
  assert.equal(timeline.dueAt("a", 40), 960);
  assert.equal(timeline.dueAt("b", 80), 2880);
  assert.equal(timeline.dueAt("c", 0), null);
  assert.deepEqual(timeline.at(1440), { responseId: "a", itemId: "ia", ptsMs: 60 });
  assert.deepEqual(timeline.at(2880), { responseId: "b", itemId: "ib", ptsMs: 80 });
  assert.equal(timeline.at(9999).ptsMs, 120); // the end of what has come
  timeline.finish("a", "completed");
  timeline.finish("silent", "failed");
  assert.deepEqual(timeline.takeFinished(1919), [{ responseId: "silent", status: "failed" }]);
  assert.deepEqual(timeline.takeFinished(1920), [{ responseId: "a", status: "completed" }]);
  assert.deepEqual(timeline.takeFinished(1920), []);
});

test("the clock without Web Audio stops when there is no sound", () => {
  let now = 5;
  const sound = new SilentSound(() => now);
  now += 1;
  assert.equal(sound.position(), 0);
  sound.push(new Int16Array(12000));
  now += 0.25;
  assert.equal(sound.position(), 6000);
  now += 3;
  assert.equal(sound.position(), 12000);
  sound.push(new Int16Array(24000));
  now += 0.5;
  assert.equal(sound.position(), 24000);
  sound.clear();
  assert.equal(sound.position(), 0);
});

test("a tone keeps its height and its level at another rate, in any pieces", () => {
  for (const from of [48000, 44100, 16000, 24000]) {
    const tone = Float32Array.from({ length: from }, (_, i) => Math.sin(2 * Math.PI * 1000 * i / from));
    const whole = new Resampler(from, 24000).push(tone);
    const parts = new Resampler(from, 24000);
    const joined = [];
    for (let at = 0, size = 1; at < tone.length; at += size, size = size * 7 % 1013 + 1) {
      joined.push(...parts.push(tone.subarray(at, at + size)));
    }
    assert.deepEqual(pcm.toPcm16(Float32Array.from(joined)), pcm.toPcm16(whole));
    // The rest waits for the samples after it.
    assert.ok(Math.abs(whole.length - 24000) <= 30, `${whole.length} samples`);
    let error = 0;
    for (let i = 200; i < whole.length - 200; i++) {
      const expected = Math.sin(2 * Math.PI * 1000 * i / 24000);
      error = Math.max(error, Math.abs(whole[i] - expected));
    }
    assert.ok(error < 0.02, `error ${error} at ${from} Hz`);
  }
});

test("a tone above the band of the session is removed", () => {
  const tone = Float32Array.from({ length: 48000 }, (_, i) => Math.sin(2 * Math.PI * 15000 * i / 48000));
  const heard = new Resampler(48000, 24000).push(tone).subarray(200, -200);
  assert.ok(Math.max(...heard.map(Math.abs)) < 0.02);
});

test("the codec string is read from the sequence parameter set", () => {
  assert.equal(codecOf(Uint8Array.of(0, 0, 0, 1, 9, 16, 0, 0, 1, 0x67, 0x64, 0, 0x1f, 1)), "avc1.64001f");
  assert.equal(codecOf(Uint8Array.of(0, 0, 0, 1, 0x41, 0x64, 0, 0x1f, 1)), null);
});

test("captions grow, end and are bounded", () => {
  const captions = new Captions();
  const take = (type, fields) => captions.take({ type, ...fields });
  const said = "response.output_audio_transcript";
  assert.equal(take("response.created", {}), null);
  assert.equal(take(`${said}.delta`, { item_id: "a", delta: "Good " }).text, "Good ");
  assert.equal(take(`${said}.delta`, { item_id: "a", delta: "day" }).text, "Good day");
  assert.deepEqual(take(`${said}.done`, { item_id: "a", transcript: "Good day." }),
    { role: "avatar", id: "a", text: "Good day.", isFinal: true });
  const heard = "conversation.item.input_audio_transcription.completed";
  assert.equal(take(heard, { item_id: "b", transcript: "Hello" }).role, "user");
  for (let i = 0; i < 1000; i++) take(`${said}.delta`, { item_id: `x${i}`, delta: "x" });
  assert.ok(captions.texts.size <= 64);
});

test("every close code of the documentation has a sentence of its own", () => {
  const docs = readFileSync(new URL("../../../docs/wire-protocol.md", import.meta.url), "utf8");
  const table = docs.slice(docs.indexOf("### Close codes")).split("\n## ")[0];
  const rows = [...table.matchAll(/^\| ([0-9, ]+) \|/gm)].flatMap(([, codes]) => codes.split(", ").map(Number));
  assert.ok(rows.length >= 13);
  const sentences = new Set([...rows, 1006, 4429].map((code) => {
    const { sentence } = describeClose(code);
    assert.match(sentence, /^[A-Z].*\.$/);
    assert.doesNotMatch(sentence, /\d{4}/);
    return sentence;
  }));
  assert.equal(sentences.size, new Set([...rows, 1006, 4429]).size);
  assert.match(describeClose(4999).sentence, /4999/);
});

test("the table of states leads only to states with a view, and to each of them", () => {
  const states = Object.keys(VIEW);
  assert.deepEqual(Object.keys(NEXT).sort(), [...states].sort());
  const reached = new Set(["loading"]);
  for (const from of reached) {
    for (const [cause, to] of Object.entries(NEXT[from])) {
      assert.ok(states.includes(to), `${from} ${cause} ${to}`);
      reached.add(to);
    }
  }
  assert.deepEqual([...reached].sort(), [...states].sort());
  assert.equal(advance("ready", "spoke"), "ready");
  for (const state of states.filter((each) => VIEW[each].hasSession)) {
    assert.equal(advance(state, "closed"), "ended");
  }
});

test("a caller who waits is told the place and the time", () => {
  assert.equal(queueSentence(1, null), "You are next.");
  assert.equal(queueSentence(3, 20400), "You are number 3 in the queue, about 20\u00a0s.");
  assert.equal(queueSentence(9, 240000), "You are number 9 in the queue, about 4\u00a0min.");
});

test("a caption is the newest sentence, in parts that fit", () => {
  assert.equal(lastSentence("Good morning. How are you? "), "How are you?");
  assert.equal(lastSentence(""), "");
  const fits = (text) => text.length <= 12;
  assert.deepEqual(divide("Short.", fits), ["Short."]);
  assert.deepEqual(divide("Four score and seven years ago.", fits), ["Four score", "and seven", "years ago."]);
  assert.deepEqual(divide("Donaudampfschifffahrt ahoi", fits), ["Donaudampfschifffahrt", "ahoi"]);
  const chinese = divide("\u4eca\u5929\u5929\u6c14\u5f88\u597d\u6211\u4eec\u53bb\u516c\u56ed\u6563\u6b65", (text) => text.length <= 6);
  assert.ok(chinese.length > 1);
  assert.ok(chinese.every((part) => part.length <= 6));
});

test("an address chooses what exists, and each other value is told", () => {
  const of = (text) => new URLSearchParams(text);
  assert.deepEqual(choices.choose(of("")),
    { video: "auto", transport: "binary", flow: "ack", idle: "stream" });
  assert.deepEqual(choices.choose(of("video=none&transport=carrier-pigeon&flow=clock")),
    { video: "none", transport: "binary", flow: "clock", idle: "stream" });
  assert.deepEqual(choices.faults(of("video=none&avatar=ben"), ["anna", "ben"]), []);
  assert.deepEqual(choices.faults(of("avatar=nobody"), []), []); // no pod runs, nobody knows
  assert.deepEqual(choices.faults(of("transport=json2&avatar=nobody"), ["anna"]), [
    "The address says transport=json2, which is none of binary, json. The page uses binary.",
    "The avatar nobody does not exist. The page shows anna.",
  ]);
  assert.ok(choices.faults(of(`idle=${"x".repeat(9000)}`), [])[0].length < 200);
});

test("a session that has to wait before it is resumed says why", () => {
  const sentences = ["rate_limit_exceeded", "no_capacity", "not_ready", "other", undefined]
    .map((code) => describeDelay(code).sentence);
  for (const sentence of sentences) assert.match(sentence, /^[A-Z][^_]*\.$/);
  assert.equal(new Set(sentences).size, 4);
});
