// The person's own background picture: made small here, kept for a reload, uploaded when needed.

import { forget, recall, remember } from "./memory.js";
import { sendBackground } from "./server.js";

const LONGEST_SIDE = 1920;
const QUALITY = 0.85;

/** One picture, and the name the server gave it. */
export class Background {
  #blob = null;

  constructor() {
    this.id = null;
    this.bitmap = null;
  }

  get chosen() {
    return this.#blob !== null;
  }

  /**
   * Take a picture that the person chose; rejects if the browser cannot read it.
   * It is drawn anew: smaller than a telephone's photograph, and without the place it was taken at.
   */
  async choose(file) {
    const whole = await createImageBitmap(file);
    const scale = Math.min(1, LONGEST_SIDE / Math.max(whole.width, whole.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(whole.width * scale));
    canvas.height = Math.max(1, Math.round(whole.height * scale));
    const ink = canvas.getContext("2d");
    ink.fillStyle = "#ffffff"; // what was transparent
    ink.fillRect(0, 0, canvas.width, canvas.height);
    ink.drawImage(whole, 0, 0, canvas.width, canvas.height);
    whole.close();
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
    await this.#take(blob);
    remember("background", canvas.toDataURL("image/jpeg", QUALITY).split(",")[1]);
  }

  /** Take the picture from before the page was loaded again, if there is one. */
  async recall() {
    const text = recall("background", null);
    if (!text) return;
    try {
      const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
      await this.#take(new Blob([bytes], { type: "image/jpeg" }));
    } catch {
      forget("background");
    }
  }

  /** Bring it to the server, once, or again after the server has forgotten it. */
  async upload({ again = false, signal } = {}) {
    if (!this.#blob) return null;
    if (again || !this.id) this.id = await sendBackground(this.#blob, signal);
    return this.id;
  }

  async #take(blob) {
    this.bitmap = await createImageBitmap(blob);
    this.#blob = blob;
    this.id = null;
  }
}
