/** The file of a session: its boxes, and where its parts are among what is heard. */

import assert from "node:assert/strict";
import test from "node:test";

const CLIENT = new URL("../../../runtime/avatar_contracts/page/client/", import.meta.url);
const { Media } = await import(new URL("media.js", CLIENT));
const { lastPictureMs, readHeader } = await import(new URL("mp4.js", CLIENT));
const { Timeline } = await import(new URL("timeline.js", CLIENT));
const { Video } = await import(new URL("video.js", CLIENT));

const u32 = (...values) => values.flatMap((value) => [24, 16, 8, 0].map((shift) => (value >>> shift) & 255));
const text = (name) => [...name].map((c) => c.charCodeAt(0));
const box = (type, ...parts) => {
  const content = parts.flat();
  return [...u32(8 + content.length), ...text(type), ...content];
};

const track = (id, handler, timescale, entry) => box("trak",
  box("tkhd", u32(0, 0, 0, id)),
  box("mdia", box("mdhd", u32(0, 0, 0, timescale)), box("hdlr", u32(0, 0), text(handler)), entry));
const HEADER = Uint8Array.from([...box("ftyp", u32(0)), ...box("moov",
  track(2, "soun", 24000, box("free", text("avcC"))),
  track(1, "vide", 90000, box("free", box("avcC", [1, 0x64, 0, 0x28]))))]);
const fragment = (...tracks) => [...box("moof", box("mfhd", u32(0, 1)), tracks.flatMap(([id, at, count, version = 1]) => box("traf",
  box("tfhd", u32(8, id, 3600)),
  version ? box("tfdt", u32(0x1000000, Math.floor(at / 2 ** 32), at % 2 ** 32)) : box("tfdt", u32(0, at)),
  box("trun", u32(0, count))))), ...box("mdat", [1, 2, 3])];

test("the header of a file says its codecs and the clock of its pictures", () => {
  const header = { mediaType: 'video/mp4; codecs="avc1.640028, mp4a.40.2"', videoTrack: 1, timescale: 90000 };
  assert.deepEqual(readHeader(HEADER), header);
  assert.equal(readHeader(Uint8Array.from(fragment([1, 0, 1]))), null);
  for (let length = 0; length < HEADER.length; length++) assert.equal(readHeader(HEADER.subarray(0, length)), null);
});

test("the place of a part in the file is that of its last picture, also after hours", () => {
  const header = readHeader(HEADER);
  const at = (...parts) => lastPictureMs(Uint8Array.from(parts.flat()), header);
  assert.equal(at(fragment([1, 3600, 1])), 40);
  assert.equal(at(fragment([1, 3600, 1], [2, 1024, 4])), 40);
  assert.equal(at(fragment([1, 3600, 3, 0])), 120); // two dropped frames before it
  assert.equal(at(fragment([1, 3600, 1]), fragment([1, 7200, 1])), 80);
  assert.equal(at(fragment([1, 90000 * 86400, 1])), 86400_000);
  assert.ok(Number.isNaN(at(fragment([2, 0, 1]))));
});

test("positions in a file have gaps where nobody speaks", () => {
  const timeline = new Timeline(24000);
  const place = (responseId, ptsMs, from) => timeline.place({ responseId, itemId: "i", ptsMs }, from, 960);
  place("a", 0, 4800);
  place("a", 40, 5760);
  assert.equal(timeline.segments.length, 1);
  timeline.finish("a", "completed");
  assert.equal(timeline.at(4799), null);
  assert.equal(timeline.at(5760).ptsMs, 40);
  assert.deepEqual(timeline.takeFinished(6719), []);
  assert.deepEqual(timeline.takeFinished(6720), [{ responseId: "a", status: "completed" }]);
  place("b", 0, 9600);
  assert.deepEqual([timeline.at(9599).responseId, timeline.at(9599).ptsMs, timeline.at(9600).responseId], ["a", 80, "b"]);
});

/** A session whose media is a file, with a player in memory. */
function start() {
  const parts = [], told = [];
  const player = {
    at: 0, cleared: 0, busyUntilS: 0,
    append: (data, isCurrent) => { parts.push(isCurrent); return data[0] * 40; },
    position: () => player.at, clear: () => { player.cleared++; }, complete() {}, close: async () => {},
  };
  const media = new Media(player, null, {
    onFrame() {}, onAudio: () => told.push("sound"), onStarted: (id) => told.push(`${id} started`),
    onFinished: (id, status) => told.push(`${id} ${status}`),
  });
  media.file = player;
  const frame = (number, id, index, epoch = 1) => media.receive({
    type: "response.video.delta", mode: "fmp4", response_id: id, item_id: `i${id}`, frame_index: index,
    pts_ms: index * 40, epoch, idle: id === null, data: Uint8Array.of(number),
  });
  const done = (id, status = "completed", epoch = 1) => media.receive({ type: "response.done", response: { id, status }, epoch });
  return { player, parts, told, media, frame, done };
}

test("a response in a file is heard when the element plays its place", () => {
  const { player, told, media, frame, done } = start();
  frame(0, null, 0); frame(1, "a", 0); frame(2, "a", 1);
  done("a");
  media.receive({ type: "response.output_audio.delta", response_id: "a", epoch: 1, delta: "AAA=" });
  assert.equal(player.busyUntilS, 0.12);
  player.at = 959;
  media.update(0);
  assert.deepEqual(told, ["sound"]);
  player.at = 1000;
  media.update(0);
  assert.deepEqual([told.at(-1), media.moment.responseId, media.isHeard], ["a started", "a", true]);
  player.at = 2880;
  media.update(0);
  assert.deepEqual([told.at(-1), media.isHeard], ["a completed", false]);
  assert.equal(media.moment.ptsMs, 80);
});

test("parts of an older epoch fill the file, and are not heard as a response", () => {
  const { player, parts, told, media, frame, done } = start();
  frame(0, "a", 0);
  media.raiseEpoch();
  assert.equal(player.cleared, 1);
  frame(1, "a", 1);
  done("a", "cancelled", 2);
  frame(2, null, 0, 2);
  assert.deepEqual(parts, [true, false, true]);
  media.update(0);
  assert.deepEqual(told, ["a cancelled"]);
  assert.equal(media.moment, null);
});

test("a hidden page skips to the last keyframe that is due, and no frame that others need", () => {
  const canvas = { width: 1, height: 1, getContext: () => ({ drawImage() {} }) };
  const decoded = [];
  const video = new Video(canvas, 1000, { onKeyframeNeeded() {}, onRefused() {}, onDrawn() {} });
  video.decoders.h264 = { decode: ({ frameIndex }) => { decoded.push(frameIndex); return new Promise(() => {}); }, close() {} };
  for (let i = 0; i < 120; i++) {
    video.push({ mode: "h264", frameIndex: i, keyframe: i % 50 === 0, idle: false, data: Uint8Array.of() }, i * 40);
  }
  video.update(4400, 0);
  assert.deepEqual(decoded, [100, 101, 102, 103, 104, 105, 106, 107, 108, 109]);
  assert.equal(video.dropped, 100);
});
