/** The elements of the page, and what they show. */

import { VIEW } from "./states.js";

/** @typedef {import("./states.js").State} State */
/** @typedef {import("./directory.js").Avatar} Avatar */

/**
 * Returns the element with an id.
 * @param {string} id
 * @returns {any}
 */
export function element(id) {
  return document.getElementById(id);
}

/**
 * Shows a state.
 * @param {State} state
 * @param {{sentence?: string, isListening: boolean, hears: boolean, saysText: boolean}} facts
 */
export function showState(state, { sentence, isListening, hears, saysText }) {
  const view = VIEW[state];
  document.documentElement.dataset.state = state;
  const listening = state === "live" && isListening ? "Listening" : view.sentence;
  setText("status", sentence ?? listening);
  element("key-form").hidden = state !== "locked";
  element("controls").hidden = ["loading", "locked", "unavailable"].includes(state);
  element("file-part").hidden = element("controls").hidden || !hears;
  element("talk").hidden = element("sample").hidden = !hears;
  element("talk").disabled = !view.canAct && state !== "reconnecting";
  element("talk").setAttribute("aria-pressed", String(isListening));
  setText("talk-label", isListening ? "Mute" : "Talk");
  element("sample").disabled = !view.canAct;
  element("say").disabled = !view.canAct || !element("text").value.trim();
  element("speak").disabled = !view.canAct || !element("file").files.length;
  element("use").disabled = !view.canAct;
  element("text-form").hidden = !saysText;
  if (saysText) element("captions").hidden = false;
  element("say").classList.toggle("primary", !hears);
  element("stop").hidden = state !== "speaking";
  element("end").hidden = !view.hasSession;
  setText("end", state === "waiting" ? "Stop waiting" : "End");
  for (const input of element("choices").querySelectorAll("input")) {
    input.disabled = view.hasSession && !view.canAct;
  }
}

/**
 * Shows a problem, or none.
 * @param {string} sentence
 */
export function showProblem(sentence) {
  setText("problem", sentence);
}

/**
 * Shows the avatars to choose from.
 * @param {readonly Avatar[]} avatars
 * @param {string} chosen
 * @param {(name: string) => void} onChoose
 */
export function showAvatars(avatars, chosen, onChoose) {
  element("avatars").hidden = avatars.length < 2;
  element("choices").replaceChildren(...avatars.map(({ name }) => {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "avatar", value: name, checked: name === chosen });
    input.onchange = () => onChoose(name);
    const picture = document.createElement("img");
    Object.assign(picture, { className: "thumb", alt: "" });
    picture.dataset.avatar = name;
    const text = document.createElement("bdi");
    text.textContent = name;
    label.append(input, picture, text);
    return label;
  }));
}

/**
 * Shows the picture of an avatar in the list.
 * @param {string} name
 * @param {Blob} picture
 */
export function showThumbnail(name, picture) {
  const image = element("choices").querySelector(`[data-avatar="${CSS.escape(name)}"]`);
  if (!image) return;
  image.onload = image.onerror = () => URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(picture);
}

/**
 * Shows the chosen avatar before it speaks.
 * @param {Blob | null} picture
 * @param {Avatar | undefined} avatar
 */
export async function showStill(picture, avatar) {
  const face = element("face");
  setText("disclosure", avatar?.disclosure ?? "");
  element("disclosure").hidden = !avatar?.disclosure;
  face.setAttribute("aria-label", avatar ? `The avatar ${avatar.name}` : "The avatar");
  if (!picture) return;
  const image = await createImageBitmap(picture);
  Object.assign(face, { width: image.width, height: image.height });
  face.getContext("2d").drawImage(image, 0, 0);
  image.close();
  showFace();
}

/** Shows the canvas in place of the outline of a person. */
export function showFace() {
  element("face").hidden = false;
  element("placeholder").setAttribute("hidden", "");
}

/**
 * Shows the video element in place of the canvas, or not.
 * @param {boolean} isFilm
 */
export function showFilm(isFilm) {
  element("film").hidden = !isFilm;
  element("film").setAttribute("aria-label", element("face").getAttribute("aria-label"));
  element("face").setAttribute("aria-hidden", String(isFilm));
}

/**
 * Sets a text, if it differs: a screen reader reads a status that is set again.
 * @param {string} id
 * @param {string} text
 */
export function setText(id, text) {
  const target = element(id);
  if (target.textContent !== text) target.textContent = text;
}
