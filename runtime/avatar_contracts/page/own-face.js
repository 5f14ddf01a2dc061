/** "Your own face": only a runtime on this machine prepares avatars, and it says so. */

import { element as ui } from "./view.js";

/** @typedef {import("./directory.js").Directory} Directory */
/** @typedef {import("./directory.js").Offer} Offer */
/**
 * @typedef {object} Report
 * @property {string} sentence
 * @property {{check: string, ranges: string, advice: string}[]} faults
 * @property {string[]} warnings
 * @property {string[]} notes
 * @property {{content_hash: string}} written
 * @property {{message: string}} [error]
 */

const MAX_BYTES = 512 * 1024 * 1024;
const LOADED_MS = 20_000; // the runtime looks at its folder every 5 s
const WATCH_MS = 1000;

export class OwnFace {
  /**
   * @param {Directory} directory
   * @param {(name: string) => Promise<void>} speakAs
   */
  constructor(directory, speakAs) {
    this.directory = directory;
    this.speakAs = speakAs;
    /** @type {string[]} */
    this.names = [];
    /** @type {XMLHttpRequest | null} It reports how much was sent. */
    this.preparing = null;
    this.#listen();
  }

  /** @param {Offer | null} offer */
  offer(offer) {
    this.names = offer?.avatars.map(({ name }) => name) ?? [];
    ui("own").hidden = !offer?.preparation;
  }

  #listen() {
    const { drop, file, name } = { drop: ui("drop"), file: ui("own-file"), name: ui("own-name") };
    drop.ondragover = (/** @type {DragEvent} */ event) => {
      event.preventDefault();
      drop.toggleAttribute("data-over", true);
    };
    drop.ondragleave = () => drop.removeAttribute("data-over");
    drop.ondrop = (/** @type {DragEvent} */ event) => {
      event.preventDefault();
      drop.removeAttribute("data-over");
      const files = event.dataTransfer?.files;
      if (files?.length !== 1) { tell("Drop one file.", true); return; }
      file.files = files;
    };
    // A file beside the zone must not replace the page.
    window.ondragover = window.ondrop = (event) => event.preventDefault();
    name.oninput = () => {
      ui("prepare").textContent = this.names.includes(name.value) ? "Replace this avatar" : "Prepare";
    };
    ui("own-form").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      void this.#prepare(file.files[0], name.value, ui("own-consent").value);
    };
    ui("cancel").onclick = () => this.preparing?.abort();
  }

  /**
   * @param {File} file
   * @param {string} name
   * @param {string} consent
   */
  async #prepare(file, name, consent) {
    if (file.size > MAX_BYTES) { tell("The file has more than 512 MiB.", true); return; }
    ui("prepare").disabled = true;
    ui("cancel").disabled = false;
    ui("preview").hidden = ui("use").hidden = true;
    ui("advice").replaceChildren();
    tell("Sending the file.");
    const watching = setInterval(() => this.#watch(), WATCH_MS);
    try {
      const { status, report } = await this.#upload(file, name, consent);
      if (report.error) throw new Error(report.error.message);
      await this.#present(status, report, name);
    } catch (error) {
      tell(/** @type {Error} */ (error).message, true);
    } finally {
      clearInterval(watching);
      this.preparing = null;
      ui("progress").textContent = "";
      ui("prepare").disabled = false;
      ui("cancel").disabled = true;
    }
  }

  /**
   * @param {File} file
   * @param {string} name
   * @param {string} consent
   * @returns {Promise<{status: number, report: Report}>}
   */
  #upload(file, name, consent) {
    return new Promise((resolve, reject) => {
      const request = this.preparing = new XMLHttpRequest();
      request.open("POST", `v1/avatars?${new URLSearchParams({ name, consent })}`);
      request.responseType = "json";
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.upload.onprogress = ({ loaded, total }) => {
        ui("progress").textContent = `${Math.round(100 * loaded / total)} % sent`;
      };
      request.upload.onload = () => {
        tell("Preparing the avatar.");
        ui("progress").textContent = "";
      };
      request.onload = () => resolve({
        status: request.status,
        report: request.response ?? { error: { message: `The runtime answered ${request.status}.` } },
      });
      request.onerror = () => reject(new Error("The connection to the runtime was lost."));
      request.onabort = () => reject(new Error("Cancelled. The same file and name continue."));
      request.send(file);
    });
  }

  async #watch() {
    const found = await this.directory.offer().catch(() => null);
    if (this.preparing && found?.progress) ui("progress").textContent = found.progress;
  }

  /**
   * @param {number} status
   * @param {Report} report
   * @param {string} name
   */
  async #present(status, report, name) {
    const advice = report.faults.map((fault) =>
      `${fault.check.replaceAll("_", " ")}, frames ${fault.ranges}: ${fault.advice}`);
    ui("advice").replaceChildren(...[...advice, ...report.warnings, ...report.notes].map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
    if (status !== 200) { tell(report.sentence, true); return; }
    const hash = report.written.content_hash;
    ui("preview").src = `v1/avatars/${encodeURIComponent(name)}/preview.jpg?version=${hash}`;
    ui("preview").hidden = false;
    tell(`${report.sentence} Loading the avatar.`);
    await this.#loaded(name, hash, report.sentence);
    tell(report.sentence);
    ui("use").textContent = `Speak as ${name}`;
    ui("use").hidden = false;
    ui("use").disabled = false;
    ui("use").onclick = () => this.speakAs(name).catch((error) => tell(error.message, true));
  }

  /**
   * @param {string} name
   * @param {string} hash
   * @param {string} sentence
   */
  async #loaded(name, hash, sentence) {
    const until = performance.now() + LOADED_MS;
    for (;;) {
      const { avatars } = await this.directory.offer();
      this.names = avatars.map((each) => each.name);
      if (avatars.some((each) => each.name === name && hash.startsWith(each.version))) return;
      if (performance.now() > until) throw new Error(`${sentence} The runtime has not loaded it.`);
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
}

/**
 * @param {string} text
 * @param {boolean} [bad]
 */
function tell(text, bad = false) {
  ui("own-status").textContent = text;
  ui("own-status").toggleAttribute("data-bad", bad);
}
