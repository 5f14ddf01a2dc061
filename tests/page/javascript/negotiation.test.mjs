/** What a session asks for and tells the server, apart from the sound of the user. */

import assert from "node:assert/strict";
import test from "node:test";

const CLIENT = new URL("../../../runtime/avatar_contracts/page/client/", import.meta.url);
const { Acknowledgements } = await import(new URL("acknowledgements.js", CLIENT));
const { Negotiation } = await import(new URL("negotiation.js", CLIENT));
const { checkOptions } = await import(new URL("options.js", CLIENT));

test("a session asks for all at once, and what the program sets itself wins", () => {
  const wanted = { mode: "h264", transport: "binary", flow: "ack", idle: "stream" };
  const { update } = new Negotiation(wanted, { voice: "x", avatar: { idle: "none", video: { quality: 70 } } });
  assert.deepEqual(update, {
    type: "session.update",
    session: {
      type: "realtime", voice: "x", avatar: {
        transport: "binary", flow: { mode: "ack" }, idle: "none", video: { quality: 70, mode: "h264" },
      },
    },
  });
  assert.deepEqual(new Negotiation({ mode: "jpeg" }).update.session,
    { type: "realtime", avatar: { video: { mode: "jpeg" } } });
});

test("what a server refuses is given up, one by one, and other errors are not its answer", () => {
  const negotiation = new Negotiation({ mode: "fmp4", transport: "binary", flow: "ack", idle: "stream" });
  negotiation.eventId = "u1";
  const refuse = (param, event_id = "u1") => negotiation.giveUp({ param, event_id });
  assert.equal(refuse("session.avatar.idle", "other"), null);
  assert.equal(refuse("session.avatar.character"), null);
  assert.equal(refuse("session.avatar.idle"), "others");
  assert.equal(refuse("session.avatar.flow.mode"), "others");
  assert.equal(refuse("session.avatar.transport"), "others");
  assert.equal(refuse("session.avatar.transport"), null); // it is not asked for any more
  assert.equal(refuse("session.avatar.video.mode"), "mode");
  assert.deepEqual(negotiation.update.session.avatar, { video: { mode: "fmp4" } });
  negotiation.wanted.mode = "jpeg";
  assert.equal(refuse("session.avatar.video.mode"), null);
});

test("after the first agreement only the mode changes", () => {
  const negotiation = new Negotiation({ mode: "h264", idle: "stream" }, { voice: "x" });
  negotiation.isAgreed = true;
  negotiation.wanted.mode = "jpeg";
  assert.deepEqual(negotiation.update.session, { type: "realtime", avatar: { video: { mode: "jpeg" } } });
});

test("options that contradict each other are named", () => {
  assert.throws(() => checkOptions({ video: "jpeg" }), /video is "jpeg", must be a video element/);
  assert.throws(() => checkOptions({ video: {}, canvas: {} }), /must be one of them/);
  assert.throws(() => checkOptions({ mode: "fmp4" }), /needs a video element/);
  checkOptions({ mode: "fmp4", video: {} });
});

test("what was heard is told every 200 ms, and the end of a response at once and exactly", () => {
  const told = [];
  let now = 0;
  const acks = new Acknowledgements(({ response_id: id, pts_ms: ms }) => told.push([id, ms]), () => now);
  const at = (ms, isEnd) => acks.tell({ responseId: "r", itemId: "i", ptsMs: ms }, isEnd);
  acks.tell(null);
  at(0);
  now = 100; at(100);
  now = 200; at(200.5);
  now = 210; at(2401000 / 24000, true);
  now = 500; at(2401000 / 24000); // nothing new
  assert.deepEqual(told, [["r", 0], ["r", 200.5], ["r", 2401000 / 24000]]);
});

test("an option of few values is refused by its name, and so are patches that nobody draws", () => {
  assert.throws(() => checkOptions({ mode: "bogus" }), /^TypeError: mode is "bogus", must be one of auto, h264,/);
  assert.throws(() => checkOptions({ transport: "json2" }), /transport is "json2", must be one of json, binary/);
  assert.throws(() => checkOptions({ flow: "" }), /flow is ""/);
  assert.throws(() => checkOptions({ idle: true }), /idle is true, must be one of none, stream/);
  const session = { avatar: { video: { region: "patch" } } };
  assert.throws(() => checkOptions({ canvas: {}, session }), /session.avatar.video.region is "patch"/);
  checkOptions({ session, mode: "jpeg" }); // the program draws
  checkOptions({ canvas: {}, session: { avatar: { video: { region: "full" } } } });
});
