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
  send(message) { this.sent.push(typeof message === "string" ? JSON.parse(message) : message); }
  receive(event) { this.onmessage?.({ data: JSON.stringify(event) }); }
  receiveBytes(data) { this.onmessage?.({ data }); }
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
async function resume(socket, { last, replay = [], messages, token = "t2", used = "t1", id = "sess_1" }) {
  socket.open();
  const { received, ...request } = socket.sent.shift();
  assert.deepEqual(request, { type: "session.resume", token: used, last_seq: last });
  assert.equal(typeof received.messages, "number");
  socket.receive({
    type: "session.resumed", session: { id }, resume: { token, ttl_ms: 30000 },
    replay_from_seq: last + 1, input_samples: 0, input_messages: messages, epoch: 1,
  });
  for (const event of replay) socket.receive(event);
  await settle();
}

/** Starts a session and loses its connection; `second` is the socket of the next one. */
async function lose() {
  const started = start();
  const first = await started.next();
  first.open();
  first.receive(created);
  first.cut();
  return { ...started, second: await started.next() };
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
  // A gateway may end the connections of a client that says that it resumes.
  assert.deepEqual([first, second].map(({ url }) => url.searchParams.get("resumes")), ["1", null]);
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

test("a session that has moved is resumed by its new id and its new token", async () => {
  const { connection, next, states, second } = await lose();
  await resume(second, { last: 1, messages: 0, id: "sess_2" });
  assert.equal(connection.sessionId, "sess_2");
  second.cut();
  const third = await next();
  assert.equal(third.url.searchParams.get("resume"), "sess_2");
  await resume(third, { last: 1, messages: 0, used: "t2", token: "t3", id: "sess_2" });
  assert.deepEqual(states.map(([state]) => state), ["open", "reconnecting", "open", "reconnecting", "open"]);
});

test("a session whose pod is lost is resumed by the new id, with what this side has", async () => {
  const { connection, next } = start();
  const first = await next();
  first.open();
  first.receive(created);
  connection.sendSound(Int16Array.of(1, 2, 3));
  connection.sendSound(Int16Array.of(4, 5, 6));
  first.receive({ type: "response.created", response: { id: "resp_1" }, response_ref: 1, seq: 2 });
  first.receive({ type: "response.output_audio.delta", response_id: "resp_1", delta: "AAECAw==", seq: 3 });
  first.receive({ type: "response.video.delta", response_id: "resp_1", frame_index: 0, delta: "AAAA", seq: 4 });
  first.receive({ type: "warning", warning: { code: "overload" }, seq: 5 });
  first.receive({ type: "response.video.dropped", response_id: "resp_1", first_frame_index: 1,
    last_frame_index: 3, seq: 6 });
  first.receive({ type: "session.migrate", reason: "pod_lost", deadline_ms: 0, session_id: "sess_9" });
  first.cut(1012);
  const second = await next();
  assert.equal(second.url.searchParams.get("resume"), "sess_9");
  second.open();
  const [{ received }] = second.sent;
  assert.deepEqual(received, {
    events: 2, last_events: "996155b3b52b79fe", messages: 2, response_id: "resp_1", frames: 1, dropped: 3,
    audio_bytes: 4,
  });
  second.receive({ type: "session.resumed", session: { id: "sess_9" }, resume: { token: "t2", ttl_ms: 9 },
    input_messages: 1, recovered: true, lost_ms: 0 });
  assert.deepEqual(samplesOf(second), [4, 5, 6]); // what the lost pod had after its snapshot
});

/** A binary message of the server. */
function binary(seq, kind, { flags = 0, ref = 1, index = 0xffffffff, offset = 0, payload = [1, 0, 2, 0] } = {}) {
  const view = new DataView(new ArrayBuffer(32 + payload.length));
  view.setUint32(0, (0xa70100 | kind) * 256 + flags);
  [seq, 1, ref, index, payload.length].forEach((value, i) => view.setUint32(4 + 4 * i, value));
  view.setBigUint64(24, BigInt(offset));
  payload.forEach((byte, i) => view.setUint8(32 + i, byte));
  return view.buffer;
}

test("binary media is numbered with the other messages, and sent sound counts all that went before", async () => {
  const { connection, events, next } = start();
  const first = await next();
  first.open();
  assert.equal(first.binaryType, "arraybuffer");
  first.receive(created);
  connection.sendSound(Int16Array.of(1, 2, 3));
  first.receive({ type: "session.updated", seq: 2, session: { avatar: { transport: "binary" } } });
  connection.sendSound(Int16Array.of(4, -2));
  const sound = first.sent.at(-1);
  assert.deepEqual([...sound], [0xa7, 1, 16, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0,
    255, 255, 255, 255, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 3, 4, 0, 254, 255]);
  first.receive({ type: "response.created", seq: 3, response_ref: 7, response: { id: "resp_7" } });
  first.receive({ type: "response.content_part.added", seq: 4, item_id: "item_7", output_index: 0, content_index: 0 });
  first.receiveBytes(binary(5, 4, { ref: 7, offset: 960 }));
  first.receiveBytes(binary(6, 2, { ref: 7, flags: 1, index: 1, offset: 960 }));
  first.receiveBytes(binary(6, 2, { ref: 7, flags: 1, index: 1, offset: 960 })); // received before
  first.receiveBytes(binary(0, 1, { ref: 0, flags: 5 }));
  const [audio, frame, idle, ...rest] = events.slice(4).map(({ data, ...event }) => ({ ...event, data: [...data] }));
  const place = { epoch: 1, offset_samples: 960, pts_ms: 40, response_id: "resp_7", data: [1, 0, 2, 0] };
  assert.deepEqual(audio, {
    type: "response.output_audio.delta", seq: 5, item_id: "item_7", output_index: 0, content_index: 0, ...place,
  });
  assert.deepEqual(frame, {
    type: "response.video.delta", seq: 6, mode: "h264", codec: "h264", item_id: "item_7", output_index: 0,
    frame_index: 1, keyframe: true, idle: false, ...place,
  });
  assert.deepEqual([idle.mode, idle.idle, idle.response_id, idle.item_id, "seq" in idle, rest.length],
    ["jpeg", true, null, null, false, 0]);
  // A message that is sent again keeps its number and its position.
  first.cut();
  const second = await next();
  await resume(second, { last: 6, messages: 1 });
  assert.deepEqual([...second.sent[0]], [...sound]);
  connection.sendSound(Int16Array.of(5));
  assert.deepEqual([second.sent[1][7], second.sent[1][31]], [2, 5]);
});

test("a patch in a binary message has its place and its image", async () => {
  const { events, next, states } = start();
  const socket = await next();
  socket.open();
  socket.receive(created);
  const place = [0, 16, 1, 2, 0, 64, 0, 32, 0, 0, 0, 9];
  socket.receiveBytes(binary(2, 1, { flags: 9, index: 0, payload: [...place, 255, 216] }));
  const { rect, source_frame: source, data } = events.at(-1);
  assert.deepEqual([rect, source, [...data]], [[16, 258, 64, 32], 9, [255, 216]]);
  socket.receiveBytes(binary(3, 1, { flags: 8, payload: [1] }));
  assert.equal(states.at(-1)[1].error.code, "invalid_binary_frame");
});

for (const [field, spoil] of [["message", (bytes) => bytes.slice(0, 31)], ["magic", (bytes) => { bytes[0] = 1; }],
  ["version", (bytes) => { bytes[1] = 2; }], ["kind", (bytes) => { bytes[2] = 16; }],
  ["payload_length", (bytes) => { bytes[23] = 5; }]]) {
  test(`a binary message with a wrong ${field} ends the session`, async () => {
    const { events, next, states } = start();
    const socket = await next();
    socket.open();
    socket.receive(created);
    const bytes = new Uint8Array(binary(2, 1));
    socket.receiveBytes((spoil(bytes) ?? bytes).buffer);
    assert.equal(events.length, 1);
    assert.equal(states.at(-1)[1].error.code, "invalid_binary_frame");
    assert.match(states.at(-1)[1].error.message, new RegExp(`^${field} is `));
  });
}

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
  assert.ok(log.bytes <= 16 << 20);
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
  const { next, states, second } = await lose();
  second.open();
  second.cut();
  const third = await next();
  await resume(third, { last: 1, messages: 0 });
  assert.deepEqual(states.map(([state]) => state), ["open", "reconnecting", "open"]);
});

test("a server that lets a resumption wait says why, and the client tries again", async () => {
  const { next, states, second } = await lose();
  second.open();
  second.receive({ type: "error", error: { code: "rate_limit_exceeded", message: "m" } });
  second.cut(1013);
  assert.equal(states.at(-1)[0], "reconnecting");
  assert.match(states.at(-1)[1].reason.sentence, /lost too often/);
  await resume(await next(), { last: 1, messages: 0 });
  assert.equal(states.at(-1)[0], "open");
});

test("a server that refuses the resumption ends the session, with its reason", async () => {
  const { next, states, second } = await lose();
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
