/** What is played and shown of the events of a server, with a sound and a video in memory. */

import assert from "node:assert/strict";
import test from "node:test";

const CLIENT = new URL("../../../runtime/avatar_contracts/page/client/", import.meta.url);
const { Media } = await import(new URL("media.js", CLIENT));
const { encodeSamples } = await import(new URL("pcm.js", CLIENT));

function start() {
  const heard = { samples: 0, cleared: 0, complete: 0, at: 0 };
  const sound = {
    push: (samples) => { heard.samples += samples.length; },
    complete: () => { heard.complete++; },
    clear: () => { heard.cleared++; heard.samples = heard.at = 0; },
    position: () => heard.at, close: async () => {},
  };
  const pushed = [];
  const video = { push: (frame, due) => pushed.push([frame.responseId, due]), update() {}, clear: () => { pushed.length = 0; }, close() {} };
  const told = [];
  const media = new Media(sound, video, {
    onFrame() {}, onAudio() {}, onStarted: (id) => told.push(`${id} started`),
    onFinished: (id, status) => told.push(`${id} ${status}`), onCaption: ({ text }) => told.push(text),
  });
  const delta = encodeSamples(new Int16Array(960));
  return {
    heard, pushed, told, media,
    audio: (id, ptsMs, epoch = 1) => media.receive({
      type: "response.output_audio.delta", response_id: id, item_id: `i${id}`, pts_ms: ptsMs, epoch, delta,
    }),
    frame: (id, ptsMs, epoch = 1) => media.receive({
      type: "response.video.delta", response_id: id, pts_ms: ptsMs, frame_index: ptsMs / 40, epoch,
      delta: "", mode: "jpeg", keyframe: true, idle: id === null,
    }),
    begin: (id, epoch = 1) => media.receive({ type: "response.created", response: { id }, epoch }),
    transcript: (id, delta) => media.receive({
      type: "response.output_audio_transcript.delta", response_id: id, item_id: `i${id}`, delta,
    }),
    done: (id, status = "completed", epoch = 1) => media.receive({
      type: "response.done", response: { id, status }, epoch,
    }),
  };
}

test("the sound of a response starts with its first frame", () => {
  const { heard, audio, frame } = start();
  audio("a", 0);
  audio("a", 40);
  assert.equal(heard.samples, 0);
  frame("a", 0);
  assert.equal(heard.samples, 1920);
  audio("a", 80);
  assert.equal(heard.samples, 2880);
});

test("a response is over when its last sample has been heard", () => {
  const { heard, told, media, audio, frame, done } = start();
  audio("a", 0);
  frame("a", 0);
  done("a");
  heard.at = 480;
  media.update(0);
  assert.deepEqual(told, ["a started"]);
  assert.ok(media.isHeard);
  heard.at = 960;
  media.update(0);
  assert.deepEqual(told, ["a started", "a completed"]);
  assert.ok(!media.isHeard);
});

test("frames of several responses are due in the order of their sound, and silence after all", () => {
  const { pushed, audio, frame } = start();
  audio("a", 0); frame("a", 0); audio("b", 0); audio("b", 40); frame("b", 40); frame(null, 0);
  assert.deepEqual(pushed, [["a", 0], ["b", 1920], [null, 2880]]);
});

test("media of an older epoch is neither played nor shown", () => {
  const { heard, pushed, told, media, audio, frame, done } = start();
  audio("a", 0); frame("a", 0);
  media.raiseEpoch();
  assert.equal(heard.cleared, 1);
  audio("a", 40); frame("a", 40);
  assert.deepEqual([heard.samples, pushed], [0, []]);
  done("a", "cancelled", 2);
  media.update(0);
  assert.deepEqual(told, ["a cancelled"]);
  audio("b", 0, 2); frame("b", 0, 2);
  assert.deepEqual([heard.samples, pushed], [960, [["b", 0]]]);
});

test("new speech that the server found ends what is heard", () => {
  const { heard, media, audio, frame } = start();
  audio("a", 0); frame("a", 0);
  media.receive({ type: "output_audio_buffer.cleared", response_id: "a", epoch: 2 });
  assert.deepEqual([heard.cleared, heard.samples, media.epoch], [1, 0, 2]);
});

test("a sentence is a caption when its sound has begun, and not after an interruption", () => {
  const { heard, told, media, begin, transcript, audio, frame } = start();
  begin("a"); frame("a", 0);
  transcript("a", "One."); audio("a", 0);
  transcript("a", " Two."); audio("a", 40);
  transcript("a", " Three.");
  const captionsAt = (position) => {
    heard.at = position;
    media.update(0);
    return told.filter((text) => text.endsWith(".")).at(-1);
  };
  assert.equal(captionsAt(0), undefined);
  assert.equal(captionsAt(1), "One.");
  assert.equal(captionsAt(960), "One.");
  assert.equal(captionsAt(961), "One. Two.");
  media.raiseEpoch();
  transcript("a", " Four."); // it was on its way
  assert.equal(captionsAt(0), "One. Two.");
  begin("b", 2); frame("b", 0, 2); transcript("b", "New."); audio("b", 0, 2);
  assert.equal(captionsAt(1), "New.");
});

test("the sound that is played is counted as it is heard, over interruptions and gaps", () => {
  const { heard, media, audio, frame } = start();
  frame("a", 0); audio("a", 0); audio("a", 40);
  for (const [at, expected] of [[0, 0], [100, 100], [1000, 1000]]) {
    heard.at = at;
    media.update(0);
    assert.equal(media.playedSamples, expected);
  }
  heard.at = 1500;
  media.raiseEpoch();
  assert.equal(media.playedSamples, 1500);
  // In a file there is silence between responses.
  media.timeline.place({ responseId: "b", itemId: "ib", ptsMs: 0 }, 5000, 960);
  for (const at of [1000, 4000, 5500, 7000]) { heard.at = at; media.update(0); }
  assert.equal(media.playedSamples, 1500 + 960);
});

test("frames of silence are counted apart", () => {
  const { media, frame } = start();
  frame("a", 0); frame(null, 0); frame(null, 0);
  assert.deepEqual([media.received, media.receivedIdle], [1, 2]);
});
