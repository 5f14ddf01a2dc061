/** The page: what the user does, what the session reports, and the state between them. */

import { CaptionBand } from "./captions.js";
import * as choices from "./choices.js";
import { createSession, requestMicrophone, SessionError } from "./client/index.js";
import { Details } from "./details.js";
import { Directory, Refusal } from "./directory.js";
import { OwnFace } from "./own-face.js";
import * as recordings from "./recordings.js";
import { advance, queueSentence } from "./states.js";
import * as view from "./view.js";

/** @typedef {import("./client/session.js").Session} Session */
/** @typedef {import("./states.js").State} State */
/** @typedef {import("./states.js").Cause} Cause */

const WAIT_MS = 120_000; // in the queue for a place
const NEEDS_GESTURE = "The browser plays no sound yet. Press a key or click.";

const ui = view.element;
const query = new URLSearchParams(location.search);
const directory = new Directory();
const details = new Details(() => session);
const ownFace = new OwnFace(directory, speakAs);
const captions = new CaptionBand(ui("captions"));

/** @type {State} */
let state = "loading";
/** @type {string | undefined} */
let sentence;
/** @type {Session | null} */
let session = null;
/** @type {MediaStream | null} */
let stream = null;
/** @type {import("./directory.js").Offer | null} */
let offer = null;
let avatar = query.get("avatar") ?? "";

/**
 * @param {Cause} cause
 * @param {string} [text] Instead of the sentence of the state.
 */
function go(cause, text) {
  const next = advance(state, cause);
  if (next !== state || text) sentence = text;
  state = next;
  show();
}

function show() {
  view.showState(state, {
    sentence, isListening: Boolean(stream), hears: offer?.hears ?? true,
    saysText: offer?.says_text ?? false,
  });
}

/** Asks the server what it offers; without the right key, the user is asked for it at once. */
async function find() {
  try {
    const models = await directory.models();
    showServices(models);
    if (!directory.model && models.length) directory.model = models[0];
    if (!models.length) { go("failed", "No service is available."); return; }
    offer = await directory.offer();
  } catch (error) {
    const { status = 0, message } = /** @type {Refusal} */ (error);
    if (status === 401) {
      view.setText("key-error", directory.key ? "This key is not accepted." : "");
      directory.key = "";
      go("refused");
      ui("key").focus();
      return;
    }
    // The avatars are unknown while no pod runs; a session may wait for one.
    offer = null;
    if (!directory.model || status === 404 || status === 0) { go("failed", message); return; }
  }
  view.setText("key-error", "");
  ownFace.offer(offer);
  go("found");
  await showOffer();
}

/** @param {string[]} models */
function showServices(models) {
  ui("service-field").hidden = models.length < 2;
  ui("service").replaceChildren(...models.map((name) => new Option(name, name)));
  if (models.includes(directory.model)) ui("service").value = directory.model;
}

async function showOffer() {
  const avatars = offer?.avatars ?? [];
  const names = avatars.map(({ name }) => name);
  view.showProblem(choices.faults(query, names).join(" "));
  if (!names.includes(avatar)) avatar = names[0] ?? "";
  view.showAvatars(avatars, avatar, choose);
  for (const each of avatars) {
    const picture = await directory.picture(each).catch(() => null);
    if (!picture) continue;
    view.showThumbnail(each.name, picture);
    if (each.name === avatar && !session) await view.showStill(picture, each).catch(() => {});
  }
}

/** @param {string} name */
async function choose(name) {
  avatar = name;
  endSession(); // a session keeps the avatar that it began with
  query.set("avatar", name);
  history.replaceState(null, "", `?${query}`);
  go("choose");
  const chosen = offer?.avatars.find((each) => each.name === name);
  const picture = chosen && await directory.picture(chosen).catch(() => null);
  if (!session) await view.showStill(picture ?? null, chosen).catch(() => {});
}

/** @returns {Promise<Session>} */
async function openSession() {
  if (session && session.state !== "closed") return session.ready;
  view.showProblem("");
  captions.clear();
  details.reset();
  go("start");
  const { video: mode, ...choice } = choices.choose(query);
  const opened = createSession({
    url: new URL("v1/realtime", location.href), model: directory.model || undefined,
    token: directory.key || undefined, avatar: avatar || undefined, mode, waitMs: WAIT_MS,
    ...(mode === "fmp4" ? { video: ui("film") } : { canvas: ui("face") }),
    ...choice,
  });
  session = opened;
  const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ handle) => {
    opened.addEventListener(type, (event) => {
      if (session === opened) handle(/** @type {CustomEvent} */ (event).detail);
    });
  };
  on("statechange", follow);
  on("speaking", () => { view.showFace(); go("spoke"); });
  on("finished", ({ status }) => {
    captions.end();
    go("finished", status === "failed" ? "The response failed." : undefined);
  });
  on("interrupted", () => { captions.clear(); go("finished"); });
  on("caption", (caption) => captions.show(caption));
  on("listening", ({ level }) => ui("talk").style.setProperty("--level", Math.min(1, level * 5)));
  on("error", ({ message }) => view.showProblem(message));
  on("warning", (warning) => {
    if (warning.code === "overload") view.showProblem("The service is overloaded; frames are late.");
  });
  on("suspended", () => view.showProblem(NEEDS_GESTURE));
  on("event", (event) => details.receive(event));
  return opened.ready;
}

/** @param {any} detail */
function follow({ state: to, position, etaMs, reason, code, sentence: text, error }) {
  if (to === "queued") go("queued", queueSentence(position, etaMs));
  else if (to === "open") {
    view.showFace();
    go("opened");
    if (session?.isSpeaking) go("spoke");
  }
  else if (to === "reconnecting") go("lost", `${reason.sentence} Reconnecting…`);
  else if (to === "closed") {
    stopListening();
    session = null;
    view.showFilm(false);
    captions.end();
    if (code === 4401 || error?.code === "unauthenticated") {
      directory.key = "";
      view.setText("key-error", "This key is not accepted.");
      go("refused");
    }
    go("closed");
    if (code !== 1000) view.showProblem(error?.message && code !== 1006 ? `${text} (${error.message})` : text);
  }
}

function endSession() {
  const ended = session;
  ended?.close();
  session = null;
  view.showFilm(false);
  captions.clear();
  stopListening();
  go("closed");
}

function stopListening() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  void session?.mute();
  ui("talk").style.removeProperty("--level");
}

function resumeSound() {
  void session?.resumeSound();
  if (ui("problem").textContent === NEEDS_GESTURE) view.showProblem("");
}

async function talk() {
  if (stream) { stopListening(); show(); return; }
  const asked = await requestMicrophone();
  stream = asked;
  asked.getTracks()[0].onended = () => { stopListening(); show(); };
  show();
  const opened = await openSession();
  if (stream === asked) await opened.listen(asked);
}

/** @param {() => Promise<Int16Array>} load */
async function speak(load) {
  const samples = await load();
  const opened = await openSession();
  const { status } = await opened.play(samples);
  if (status === "failed") view.showProblem("The avatar could not speak this.");
}

/** @param {string} text */
async function say(text) {
  const opened = await openSession();
  await opened.say(text);
}

/** @param {string} name */
async function speakAs(name) {
  offer = await directory.offer();
  view.showAvatars(offer.avatars, name, choose);
  await choose(name);
  ui("frame").scrollIntoView({ block: "nearest" });
  if (!offer.hears) return; // it speaks texts only
  const [file] = ui("file").files;
  await speak(() => (file ? recordings.ofFile(file) : recordings.babble()));
}

/**
 * Runs what the user asked for, and says why it does not work.
 * @param {() => unknown} action
 */
async function attempt(action) {
  view.showProblem("");
  try {
    await action();
  } catch (error) {
    const { message, close } = /** @type {SessionError} */ (error);
    // The end of a session is reported as its state.
    if (close === undefined) view.showProblem(message);
  }
  show();
}

ui("talk").onclick = () => attempt(talk);
ui("sample").onclick = () => attempt(() => speak(recordings.sample));
ui("speak").onclick = () => attempt(() => speak(() => recordings.ofFile(ui("file").files[0])));
ui("stop").onclick = () => session?.interrupt();
ui("end").onclick = () => endSession();
ui("file").onchange = show;
ui("film").onplaying = () => view.showFilm(Boolean(session));
ui("wanted").value = choices.choose(query).video;
ui("wanted").onchange = () => {
  endSession(); // the next one begins with it
  query.set("video", ui("wanted").value);
  history.replaceState(null, "", `?${query}`);
};
ui("service").onchange = () => {
  endSession();
  directory.model = ui("service").value;
  query.set("model", directory.model);
  query.delete("avatar");
  avatar = "";
  location.assign(`?${query}`);
};
ui("text").oninput = show;
ui("text-form").onsubmit = (/** @type {Event} */ event) => {
  event.preventDefault();
  const text = ui("text").value.trim();
  if (!text) return;
  ui("text").value = "";
  void attempt(() => say(text));
};
ui("key-form").onsubmit = (/** @type {Event} */ event) => {
  event.preventDefault();
  directory.key = ui("key").value.trim();
  ui("key").value = "";
  void find();
};
document.addEventListener("click", () => resumeSound());
// Without this the server would hold the place for a page that has gone.
window.addEventListener("pagehide", () => session?.close());
document.addEventListener("keydown", ({ key }) => {
  resumeSound();
  if (key === "Escape" && state === "speaking") session?.interrupt();
});

directory.model = query.get("model") ?? "";
directory.key = new URLSearchParams(location.hash.slice(1)).get("key") ?? "";
if (location.hash) history.replaceState(null, "", `${location.pathname}${location.search}`);
show();
void find();
