/** One session over several connections, with a scripted server in memory. */

import assert from "node:assert/strict";
import test from "node:test";

const CLIENT = new URL("../../../runtime/avatar_contracts/page/client/", import.meta.url);
const { Connection, NEXT } = await import(new URL("connection.js", CLIENT));
const { subprotocols } = await import(new URL("credentials.js", CLIENT));
const { MessageLog } = await import(new URL("message-log.js", CLIENT));
const { decodeSamples } = await import(new URL("pcm.js", CLIENT));

class FakeSocket {
  static all = [];
  constructor(url, protocols) {
    Object.assign(this, { url: new URL(url), protocols, readyState: 0, sent: [], bufferedAmount: 0 });
    FakeSocket.all.push(this);
    FakeSocket.waiting?.(this);
  }
  open() { this.readyState = 1; this.onopen?.(); }
  send(text) { this.sent.push(JSON.parse(text)); }
  receive(event) { this.onmessage?.({ data: JSON.stringify(event) }); }
  close(code = 1000) { this.cut(code); }
  cut(code = 1006) { if (this.readyState !== 3) { this.readyState = 3; this.onclose?.({ code }); } }
}

/** Starts a session; `next()` gives each socket that the client opens. */
function start() {
  FakeSocket.all = [];
  const opened = [], waiting = [];
  FakeSocket.waiting = (socket) => (waiting.shift() ?? ((each) => opened.push(each)))(socket);
  const next = () => new Promise((resolve) => opened.length ? resolve(opened.shift()) : waiting.push(resolve));
  const events = [], states = [];
  const address = { url: new URL("ws://host/v1/realtime?model=a/b"), WebSocket: FakeSocket, fetch: null };
  const connection = new Connection(address, {
    onEvent: (event) => events.push(event), onState: (state, detail) => states.push([state, detail]),
  }, () => 0);
  void connection.open();
  return { connection, events, states, next };
}

const created = { type: "session.created", seq: 1, session: { id: "sess_1" }, resume: { token: "t1", ttl_ms: 30000 } };
const settle = () => new Promise((resolve) => setImmediate(resolve));
const samplesOf = (socket) => socket.sent.filter(({ type }) => type === "input_audio_buffer.append")
  .flatMap(({ audio }) => [...decodeSamples(audio)]);

/** Answers the first message of a resumed connection. */
async function resume(socket, { last, replay = [], messages, token = "t2" }) {
  socket.open();
  assert.deepEqual(socket.sent.shift(), { type: "session.resume", token: "t1", last_seq: last });
  socket.receive({
    type: "session.resumed", session: { id: "sess_1" }, resume: { token, ttl_ms: 30000 },
    replay_from_seq: last + 1, input_samples: 0, input_messages: messages, epoch: 1,
  });
  for (const event of replay) socket.receive(event);
  await settle();
}

test("what is sent before the session exists is sent when it does", async () => {
  const { connection, next, states } = start();
  const socket = await next();
  assert.deepEqual(socket.protocols, ["realtime"]);
  connection.send({ type: "session.update", session: {} });
  connection.sendSound(Int16Array.of(1, 2));
  socket.open();
  assert.deepEqual(socket.sent, []);
  socket.receive({ type: "session.queued", position: 2, eta_ms: 900 });
  socket.receive(created);
  assert.deepEqual(socket.sent.map(({ type }) => type), ["session.update", "input_audio_buffer.append"]);
  assert.deepEqual(states.map(([state]) => state), ["queued", "open"]);
  assert.deepEqual(states[0][1], { position: 2, etaMs: 900 });
});

test("a lost connection is resumed: each event once, and only the input that the server lacks", async () => {
  const { connection, events, states, next } = start();
  const first = await next();
  first.open();
  first.receive(created);
  connection.sendSound(Int16Array.of(1, 2, 3));
  connection.send({ type: "input_audio_buffer.commit", event_id: "c1" });
  connection.sendSound(Int16Array.of(4, 5, 6));
  connection.send({ type: "response.create", event_id: "r1" });
  first.receive({ type: "a", seq: 2 });
  first.cut();
  connection.sendSound(Int16Array.of(7));
  connection.send({ type: "input_audio_buffer.commit", event_id: "c2" });
  const second = await next();
  assert.equal(second.url.searchParams.get("resume"), "sess_1");
  assert.equal(second.url.searchParams.get("model"), "a/b");
  const replay = [{ type: "a", seq: 2 }, { type: "input_audio_buffer.committed", seq: 3 }, { type: "b", seq: 4 }];
  await resume(second, { last: 2, replay, messages: 3 });
  assert.deepEqual(events.map(({ seq, type }) => seq ?? type), [1, 2, "session.resumed", 3, 4]);
  assert.deepEqual(samplesOf(second), [7]);
  assert.deepEqual(second.sent.map(({ type, event_id: id }) => (type.endsWith("append") ? "sound" : id)),
    ["r1", "sound", "c2"]);
  assert.deepEqual(states.map(([state]) => state), ["open", "reconnecting", "open"]);
  assert.equal(connection.resume.token, "t2");
  connection.sendSound(Int16Array.of(8));
  assert.deepEqual(samplesOf(second), [7, 8]);
});

test("a session that continues on another pod has the id that the answer names", async () => {
  const { connection, next } = start();
  const first = await next();
  first.open();
  first.receive(created);
  first.receive({ type: "session.migrate", reason: "drain", deadline_ms: 1000 });
  first.cut();
  const second = await next();
  second.open();
  second.sent.shift();
  second.receive({
    type: "session.resumed", session: { id: "sess_2" }, resume: { token: "t2", ttl_ms: 30000 },
    replay_from_seq: 2, input_samples: 0, input_messages: 0, epoch: 1,
  });
  await settle();
  assert.equal(connection.sessionId, "sess_2");
  second.cut();
  const third = await next();
  assert.equal(third.url.searchParams.get("resume"), "sess_2");
});

test("each connection offers a fresh secret, and none without a key", async () => {
  let count = 0;
  const offered = await subprotocols({ clientSecret: async () => `secret${++count}` });
  assert.deepEqual(offered, ["realtime", "openai-insecure-api-key.secret1"]);
  assert.deepEqual(await subprotocols({}), ["realtime"]);
  const asked = [];
  const fetch = async (url, { headers, body }) => {
    asked.push(String(url), headers.Authorization, JSON.parse(body).session.model);
    return { ok: true, json: async () => ({ value: "made" }) };
  };
  const url = new URL("wss://host/base/v1/realtime?model=a/b");
  assert.deepEqual(await subprotocols({ url, key: "k", model: "a/b", fetch }),
    ["realtime", "openai-insecure-api-key.made"]);
  assert.deepEqual(asked, ["https://host/base/v1/realtime/client_secrets", "Bearer k", "a/b"]);
  const refuse = async () => ({
    ok: false, status: 401, json: async () => ({ error: { code: "unauthenticated", message: "m" } }),
  });
  await assert.rejects(subprotocols({ url, key: "k", fetch: refuse }), { code: "unauthenticated", status: 401 });
});

test("what is kept for a resumption is bounded, and numbers stay true", () => {
  const log = new MessageLog();
  for (let i = 0; i < 9000; i++) log.add(String(i));
  assert.deepEqual(log.since(8998), ["8998", "8999"]);
  assert.deepEqual(log.since(9000), []);
  assert.equal(log.since(0), null);
  for (let i = 0; i < 100; i++) log.add("x".repeat(1 << 20));
  assert.ok(log.characters <= 16 << 20);
  assert.equal(log.since(9099).length, 1);
});

test("a session whose input cannot be completed ends", async () => {
  const { connection, next, states } = start();
  const first = await next();
  first.open();
  first.receive(created);
  first.cut();
  for (let i = 0; i < 9000; i++) connection.send({ type: "x" });
  const second = await next();
  await resume(second, { last: 1, messages: 0 });
  assert.deepEqual([states.at(-1)[0], states.at(-1)[1].code], ["closed", 4411]);
});

test("a cut before the answer is resumed with the same token", async () => {
  const { next, states } = start();
  const first = await next();
  first.open();
  first.receive(created);
  first.cut();
  const second = await next();
  second.open();
  second.cut();
  const third = await next();
  await resume(third, { last: 1, messages: 0 });
  assert.deepEqual(states.map(([state]) => state), ["open", "reconnecting", "open"]);
});

test("a server that refuses the resumption ends the session, with its reason", async () => {
  const { next, states } = start();
  const first = await next();
  first.open();
  first.receive(created);
  first.cut();
  const second = await next();
  second.open();
  second.receive({ type: "error", error: { code: "resume_refused", message: "m" } });
  second.cut(4411);
  assert.equal(states.at(-1)[0], "closed");
  assert.equal(states.at(-1)[1].code, 4411);
  assert.equal(states.at(-1)[1].error.code, "resume_refused");
});

for (const [name, resumption, code] of [["a server without resumption", null, 1006],
  ["a code that does not permit it", created.resume, 4408], ["a normal end", created.resume, 1000]]) {
  test(`${name} ends the session`, async () => {
    const { next, states } = start();
    const socket = await next();
    socket.open();
    socket.receive({ ...created, resume: resumption });
    socket.cut(code);
    await settle();
    assert.deepEqual(states.map(([state]) => state), ["open", "closed"]);
    assert.equal(FakeSocket.all.length, 1);
  });
}

test("a refusal before the session is the error of its end", async () => {
  const { next, states } = start();
  const socket = await next();
  socket.open();
  socket.receive({ type: "error", error: { code: "avatar_not_found", message: "m" } });
  socket.cut(4404);
  assert.deepEqual([states[0][0], states[0][1].error.code], ["closed", "avatar_not_found"]);
});

test("every state leads somewhere known, and closed is the end", () => {
  for (const targets of Object.values(NEXT)) for (const to of targets) assert.ok(to in NEXT);
  assert.deepEqual(NEXT.closed, []);
});
