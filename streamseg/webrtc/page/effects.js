// The effects to choose from, and the picker.

import { drawPreview } from "./previews.js";

const KNOWN = {
  blur: { title: "Blur", strength: 50 },
  replace: { title: "Replace" },
  pixelate: { title: "Pixelate", strength: 50 },
  grayscale: { title: "Grey", strength: 100 },
  tint: { title: "Highlight me", strength: 50 },
  cutout: { title: "Cut out" },
  none: { title: "No effect: your room is seen" },
};

export const COLOURS = {
  "chroma-green": { title: "Green", css: "#00b140" },
  white: { title: "White", css: "#ffffff" },
  gray: { title: "Grey", css: "#808080" },
  navy: { title: "Navy", css: "#000080" },
  teal: { title: "Teal", css: "#008080" },
  beige: { title: "Beige", css: "#f5f5dc" },
};

export const titleOf = (name) => KNOWN[name]?.title ?? name;

/** The strength an effect begins with; undefined if it has none. */
export const usualStrength = (name) => KNOWN[name]?.strength;

/** Those of the server's effects that this page can offer, in this page's order. */
export function offered(names) {
  return Object.keys(KNOWN).filter((name) => !names || names.includes(name));
}

/** Radio buttons with a picture each; calls onChoose(name). */
export function fillPicker(fieldset, names, chosen, onChoose) {
  fieldset.querySelectorAll(".tile").forEach((tile) => tile.remove());
  for (const name of names) {
    const input = document.createElement("input");
    input.type = "radio";
    input.name = "effect";
    input.value = name;
    input.checked = name === chosen;
    input.addEventListener("change", () => onChoose(name));
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true");
    drawPreview(canvas, name);
    const face = document.createElement("span");
    face.append(canvas, titleOf(name));
    const label = document.createElement("label");
    label.className = "tile";
    label.append(input, face);
    fieldset.append(label);
  }
}

/** Draw the tile of "replace" with the background that is chosen. */
export function showBackground(fieldset, background) {
  const canvas = fieldset.querySelector('input[value="replace"] + span canvas');
  if (canvas) drawPreview(canvas, "replace", background);
}
