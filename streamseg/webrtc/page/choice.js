// What the person has chosen: the effect, how strong, and with which background.

import { COLOURS, fillPicker, offered, showBackground, titleOf, usualStrength } from "./effects.js";
import { recall, remember } from "./memory.js";

const OWN = "own picture";
const EACH_MS = 150; // a slider makes a hundred events a second, the server takes ten messages

/** Events: "change" when the server must be told, "problem" with words. */
export class Choice extends EventTarget {
  #timer = 0;

  constructor(background) {
    super();
    this.background = background;
    this.names = null;
    this.picker = document.getElementById("effects");
    this.strengthRow = document.getElementById("strength-row");
    this.slider = document.getElementById("strength");
    this.strengthText = document.getElementById("strength-value");
    this.backgroundRow = document.getElementById("background-row");
    this.colour = document.getElementById("colour");
    this.file = document.getElementById("picture");
    this.note = document.getElementById("picture-note");
    // Until a person has chosen, the effect is the one that the server begins with
    const saved = recall("effect", null);
    this.name = saved?.name ?? "blur";
    this.own = saved !== null;
    this.strengths = recall("strengths", {});
    this.colour.replaceChildren(
      ...Object.entries(COLOURS).map(([name, { title }]) => new Option(title, name)),
      new Option("Own picture", OWN),
    );
    this.colour.value = recall("colour", "chroma-green");
    this.#show();
    this.slider.addEventListener("input", () => this.#strengthMoved());
    this.colour.addEventListener("change", () => this.#colourChosen());
    this.file.addEventListener("change", () => this.#fileChosen());
  }

  /** Take up the picture from before a reload. */
  async recall() {
    await this.background.recall();
    if (!this.background.chosen && this.colour.value === OWN) this.colour.value = "chroma-green";
    this.#show();
  }

  /** What this server offers, and begins with. */
  configure(config) {
    this.names = config.effects ?? null;
    const usual = config.effect;
    const names = offered(this.names);
    if (!this.own && usual && names.includes(usual.name)) {
      this.name = usual.name;
      if (Number.isFinite(usual.options?.strength)) {
        this.strengths[usual.name] ??= usual.options.strength;
      }
    }
    if (!names.includes(this.name)) this.name = names[0] ?? this.name;
    this.#show();
  }

  get usesOwnPicture() {
    return this.name === "replace" && this.colour.value === OWN;
  }

  /** The wish as the server wants to hear it; uploads the background where that is needed. */
  async message(again = false) {
    const options = {};
    if (usualStrength(this.name) !== undefined) options.strength = this.#strength;
    if (this.name === "replace") {
      const id = this.usesOwnPicture ? await this.background.upload({ again }) : null;
      options.background = id ?? (this.usesOwnPicture ? "chroma-green" : this.colour.value);
    }
    return { effect: this.name, options };
  }

  get title() {
    return titleOf(this.name);
  }

  get #strength() {
    return this.strengths[this.name] ?? usualStrength(this.name);
  }

  #choose(name) {
    this.name = name;
    this.#changed();
  }

  #strengthMoved() {
    this.strengths[this.name] = Number(this.slider.value);
    this.strengthText.value = this.slider.value;
    remember("strengths", this.strengths);
    // The last position is always sent; those between not more often than the server takes them
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      this.#changed();
    }, EACH_MS);
  }

  #colourChosen() {
    if (this.usesOwnPicture && !this.background.chosen) {
      this.colour.value = recall("colour", "chroma-green");
      this.note.textContent = "Choose a picture below first.";
      this.file.focus();
      return;
    }
    this.note.textContent = "";
    this.#changed();
  }

  async #fileChosen() {
    const [file] = this.file.files;
    if (!file) return;
    this.note.textContent = "Reading the picture";
    try {
      await this.background.choose(file);
    } catch {
      this.note.textContent = "This browser cannot read that file as a picture: choose another one.";
      return;
    }
    this.note.textContent = "Your picture is used.";
    this.colour.value = OWN;
    this.name = "replace";
    this.#changed();
  }

  #changed() {
    this.own = true;
    remember("effect", { name: this.name });
    remember("colour", this.colour.value);
    this.#show();
    this.dispatchEvent(new Event("change"));
  }

  #show() {
    const names = offered(this.names);
    const shown = [...this.picker.querySelectorAll("input")].map((input) => input.value);
    if (shown.join() !== names.join()) {
      fillPicker(this.picker, names, this.name, (name) => this.#choose(name));
    }
    for (const input of this.picker.querySelectorAll("input")) {
      input.checked = input.value === this.name;
    }
    const strong = usualStrength(this.name) !== undefined;
    this.strengthRow.hidden = !strong;
    if (strong) {
      this.slider.value = this.#strength;
      this.strengthText.value = this.slider.value;
    }
    this.backgroundRow.hidden = this.name !== "replace";
    const own = this.colour.value === OWN && this.background.bitmap;
    showBackground(this.picker, own || COLOURS[this.colour.value]?.css);
  }
}
