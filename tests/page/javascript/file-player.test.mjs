/** The player of a file, with a video element and a MediaSource in memory. */

import assert from "node:assert/strict";
import test from "node:test";

const CLIENT = new URL("../../../runtime/avatar_contracts/page/client/", import.meta.url);

const u32 = (...values) => values.flatMap((value) => [24, 16, 8, 0].map((shift) => (value >>> shift) & 255));
const text = (name) => [...name].map((c) => c.charCodeAt(0));
const box = (type, ...parts) => {
  const content = parts.flat();
  return [...u32(8 + content.length), ...text(type), ...content];
};
const HEADER = [...box("moov", box("trak", box("tkhd", u32(0, 0, 0, 1)), box("mdia",
  box("mdhd", u32(0, 0, 0, 25)), box("hdlr", u32(0, 0), text("vide")), box("avcC", [1, 0x64, 0, 0x28]))))];
const part = (frame) => Uint8Array.from([...(frame ? [] : HEADER), ...box("moof", box("traf",
  box("tfhd", u32(8, 1, 1)), box("tfdt", u32(0, frame)), box("trun", u32(0, 1))))]);

class FakeBuffer extends EventTarget {
  static fails = false;
  constructor() { super(); Object.assign(this, { updating: false, from: 0, to: 0, removed: [] }); }
  get buffered() {
    return { length: this.to > this.from ? 1 : 0, start: () => this.from, end: () => this.to };
  }
  appendBuffer() {
    if (FakeBuffer.fails) throw new DOMException("full", "QuotaExceededError");
    this.#update(() => { this.to += 0.04; });
  }
  remove(_, to) { this.removed.push(to); this.#update(() => { this.from = to; }); }
  #update(change) {
    assert.ok(!this.updating);
    this.updating = true;
    queueMicrotask(() => { change(); this.updating = false; this.dispatchEvent(new Event("updateend")); });
  }
}

class FakeSource extends EventTarget {
  static last = null;
  constructor() { super(); this.readyState = "closed"; FakeSource.last = this; }
  addSourceBuffer(type) { this.type = type; this.buffer = new FakeBuffer(); return this.buffer; }
  open() { this.readyState = "open"; this.dispatchEvent(new Event("sourceopen")); }
}
globalThis.MediaSource = FakeSource;
URL.createObjectURL = () => "blob:1";
URL.revokeObjectURL = () => {};
const { FilePlayer } = await import(new URL("file-player.js", CLIENT));

class FakeVideo extends EventTarget {
  currentTime = 0; paused = true; seeking = false; allows = true; src = "";
  async play() {
    if (!this.allows) throw new DOMException("no gesture", "NotAllowedError");
    this.paused = false;
  }
  pause() { this.paused = true; }
  removeAttribute() { this.src = ""; }
  load() {}
}

function start({ allows = true } = {}) {
  const video = new FakeVideo(), told = [];
  video.allows = allows;
  FakeBuffer.fails = false;
  const player = new FilePlayer(video, {
    onProgress() {}, onFailed: ({ code }) => told.push(code),
  });
  let next = 0;
  /** Adds frames, and waits until the browser has them. */
  const add = async (frames, isCurrent = true) => {
    for (let i = 0; i < frames; i++) assert.equal(player.append(part(next), isCurrent), next++ * 40);
    while (player.queue.length || player.buffer?.updating) await null;
    await null;
  };
  return { video, told, player, add, source: FakeSource.last };
}

const near = (value, expected) => assert.ok(Math.abs(value - expected) < 1e-6, `${value}, not ${expected}`);

test("a file waits for its source, and plays when 0.2 s of it are there", async () => {
  const { video, player, source } = start();
  player.append(part(0), true);
  assert.equal(player.buffer, null);
  source.open();
  assert.equal(source.type, 'video/mp4; codecs="avc1.640028, mp4a.40.2"');
  for (let frame = 1; frame < 4; frame++) player.append(part(frame), true);
  while (player.queue.length || player.buffer.updating) await null;
  assert.ok(video.paused);
  player.append(part(4), true);
  while (player.buffer.updating) await null;
  await null;
  assert.ok(!video.paused);
  assert.equal(video.src, "blob:1");
});

test("while nobody speaks the element stays near the end, and a response is played whole", async () => {
  const { video, player, add, source } = start();
  source.open();
  await add(10);
  player.busyUntilS = 1.2; // a response, all of which comes at once
  await add(30);
  near(video.currentTime, 0);
  video.currentTime = 1.2;
  await add(1);
  near(video.currentTime, 1.2); // 0.44 s are no delay worth a jump
  await add(20);
  assert.ok(video.currentTime > 1.2);
  assert.ok(player.buffer.to - video.currentTime <= 0.8 + 1e-6);
});

test("an interruption is silent at once, and goes on with the first part of the new epoch", async () => {
  const { video, player, add, source } = start();
  source.open();
  await add(25);
  player.clear();
  assert.ok(video.paused);
  await add(3, false); // on their way when the epoch rose
  assert.ok(video.paused);
  await add(4);
  assert.ok(video.paused);
  await add(1);
  assert.ok(!video.paused);
  near(video.currentTime, 28 * 0.04);
});

test("an element that the user has paused stays paused, and its buffer is bounded", async () => {
  const { video, player, add, source } = start();
  source.open();
  await add(10);
  video.pause();
  player.clear();
  await add(10);
  assert.ok(video.paused);
  near(video.currentTime, 0.4);
  await add(25 * 61);
  assert.ok(player.buffer.to - video.currentTime < 60.1);
  assert.ok(video.currentTime > 60 && player.buffer.removed.length > 0);
  assert.ok(player.buffer.from > video.currentTime - 21);
});

test("a browser that asks for a gesture gets it", async () => {
  const { video, player, add, source } = start({ allows: false });
  source.open();
  await add(10);
  assert.ok(player.isSuspended());
  player.clear();
  await add(10);
  assert.ok(player.isSuspended());
  video.allows = true;
  await player.resume();
  assert.deepEqual([video.paused, player.isSuspended()], [false, false]);
});

test("a file that cannot be played is told once", async () => {
  const { told, player, source } = start();
  source.open();
  FakeBuffer.fails = true;
  player.append(part(0), true);
  player.append(part(1), true);
  assert.deepEqual(told, ["file_failed"]);
  const headless = start();
  headless.player.append(part(3), true);
  assert.deepEqual(headless.told, ["file_failed"]);
  await headless.player.close();
  assert.equal(headless.video.src, "");
});
