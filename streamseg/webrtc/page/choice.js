// What the person has chosen: the effect, how strong, and with which background.

import { COLOURS, fillPicker, offered, showBackground, titleOf, usualStrength } from "./effects.js";
import { recall, remember } from "./memory.js";
import { wasTooSlow } from "./server.js";

const OWN = "own picture";
const SERVERS = "server's"; // the operator's background: a picture, or a colour not in the list
const GREEN = "chroma-green";
const EACH_MS = 150; // a slider makes a hundred events a second, the server takes ten messages

/** Events: "change" when the server must be told. */
export class Choice extends EventTarget {
  #timer = 0;
  #names = null; // of the effects that the server lets be chosen
  #usual = {}; // the effect that the server begins with: name, options, files
  #mayBypass = true; // if not, the server makes no effect weaker than it usually is

  constructor(background) {
    super();
    this.background = background;
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
    this.backdrop = recall("colour", null); // likewise, null is what the server begins with
    this.#show();
    this.slider.addEventListener("input", () => this.#strengthMoved());
    this.colour.addEventListener("change", () => this.#colourChosen());
    this.file.addEventListener("change", () => this.#fileChosen());
  }

  /** Take up the picture from before a reload. */
  async recall() {
    await this.background.recall();
    if (!this.background.chosen && this.backdrop === OWN) this.backdrop = null;
    this.#show();
  }

  /** What this server offers, and begins with. */
  configure(config) {
    this.#names = config.effects ?? null;
    this.#usual = config.effect ?? {};
    this.#mayBypass = config.may_bypass ?? true;
    if (!this.own && this.#usual.name) this.name = this.#usual.name;
    const names = this.#offered;
    if (!names.includes(this.name)) this.name = names[0] ?? this.name;
    this.#show();
  }

  get usesOwnPicture() {
    return this.name === "replace" && this.#backdrop === OWN;
  }

  /** Whether only a new call can have it: the server begins with it, but lets nobody ask for it. */
  get isTheServersAlone() {
    return this.#names !== null && !this.#names.includes(this.name);
  }

  /**
   * The wish as the server wants to hear it; uploads the background where that is needed.
   * With anyway, one that takes too long on its way is left out: green is in its place.
   */
  async message({ again = false, anyway = false, signal } = {}) {
    const { name } = this;
    if (this.isTheServersAlone) return {};
    const options = {};
    if (usualStrength(name) !== undefined) options.strength = this.#strength;
    const backdrop = this.#backdrop;
    // The server keeps its own background where none is named
    if (name === "replace" && backdrop !== SERVERS) {
      options.background = backdrop;
      if (backdrop === OWN) {
        const sending = this.background.upload({ again, signal });
        options.background = (await (anyway ? unlessSlow(sending) : sending)) ?? GREEN;
      }
    }
    return { effect: name, options };
  }

  get title() {
    return titleOf(this.name);
  }

  get #offered() {
    return offered(this.#names, this.#usual.name);
  }

  get #strength() {
    return Math.max(this.#leastStrength, this.strengths[this.name] ?? this.#usualStrength);
  }

  get #usualStrength() {
    const { name, options } = this.#usual;
    return (name === this.name ? options?.strength : undefined) ?? usualStrength(this.name);
  }

  get #leastStrength() {
    return this.#mayBypass ? 0 : this.#usualStrength;
  }

  /** The server's own background as an option of this page's: {title, css}; null if there is none. */
  get #servers() {
    const { name, options, files } = this.#usual;
    if (name !== "replace") return null;
    if (files?.includes("background")) return { title: "The server's picture" };
    const colour = options?.background;
    if (!colour || colour in COLOURS) return null;
    return { title: "The server's colour", css: CSS.supports("color", colour) ? colour : null };
  }

  /** A colour's name, OWN or SERVERS: what is chosen, as far as it can be had. */
  get #backdrop() {
    const { backdrop } = this;
    if (backdrop === SERVERS ? this.#servers : backdrop === OWN || backdrop in COLOURS) return backdrop;
    const { name, options } = this.#usual;
    return this.#servers ? SERVERS : (name === "replace" && options?.background) || GREEN;
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
    const chosen = this.colour.value;
    if (chosen === OWN && !this.background.chosen) {
      this.colour.value = this.#backdrop;
      this.note.textContent = "Choose a picture below first.";
      this.file.focus();
      return;
    }
    this.note.textContent = "";
    this.#putBefore(chosen);
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
    this.name = "replace";
    this.#putBefore(OWN);
  }

  #putBefore(backdrop) {
    this.backdrop = backdrop;
    remember("colour", backdrop);
    this.#changed();
  }

  #changed() {
    this.own = true;
    remember("effect", { name: this.name });
    this.#show();
    this.dispatchEvent(new Event("change"));
  }

  #show() {
    const names = this.#offered;
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
      this.slider.min = this.#leastStrength;
      this.slider.value = this.#strength;
      this.strengthText.value = this.slider.value;
    }
    this.#showBackgrounds();
  }

  #showBackgrounds() {
    const servers = this.#servers;
    const backdrop = this.#backdrop;
    const options = Object.entries(COLOURS).map(([name, { title }]) => new Option(title, name));
    if (servers) options.unshift(new Option(servers.title, SERVERS));
    options.push(new Option("Own picture", OWN));
    const text = (all) => [...all].map(({ label }) => label).join();
    if (text(options) !== text(this.colour.options)) this.colour.replaceChildren(...options);
    this.colour.value = backdrop;
    this.backgroundRow.hidden = this.name !== "replace";
    const css = backdrop === SERVERS ? servers.css : COLOURS[backdrop]?.css;
    showBackground(this.picker, (backdrop === OWN && this.background.bitmap) || css || null);
  }
}

/** What a promise becomes, null if a server or the way to it was too slow. */
async function unlessSlow(promise) {
  try {
    return await promise;
  } catch (error) {
    if (wasTooSlow(error)) return null;
    throw error;
  }
}
