// The effects to choose from, and the picker.

import { drawPreview } from "./previews.js";

// In the order in which they are shown; those without early may be missing from a server
const KNOWN = {
  blur: { title: "Blur", strength: 50, early: true },
  replace: { title: "Replace", early: true },
  pixelate: { title: "Pixelate", strength: 50, early: true },
  grayscale: { title: "Grey", strength: 100, early: true },
  tint: { title: "Highlight me", strength: 50, early: true },
  labels: { title: "Labels: your room is seen" },
  none: { title: "No effect: your room is seen" },
  mask: { title: "Mask" },
  "per-class": { title: "By class" },
};
const SWITCHED = ["mask"]; // this page has a switch for it: no tile unless the server begins with it

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

/**
 * The effects to offer, in this page's order.
 * @param names that the server lets be chosen; null if it has not said so yet
 * @param usual the one that the server begins with, if it has said so
 */
export function offered(names, usual) {
  const known = Object.keys(KNOWN);
  const found = (names ?? known.filter((name) => KNOWN[name].early)).filter(
    (name) => !SWITCHED.includes(name),
  );
  if (usual && !found.includes(usual)) found.push(usual);
  const place = (name) => (known.includes(name) ? known.indexOf(name) : known.length);
  return found.sort((one, other) => place(one) - place(other));
}

/** Radio buttons with a picture each; calls onChoose(name). */
export function fillPicker(fieldset, names, chosen, onChoose) {
  const focused = fieldset.contains(document.activeElement);
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
  if (focused) fieldset.querySelector("input:checked")?.focus();
}

/** Draw the tile of "replace" with the background that is chosen; null for an unknown picture. */
export function showBackground(fieldset, background) {
  const canvas = fieldset.querySelector('input[value="replace"] + span canvas');
  if (canvas) drawPreview(canvas, "replace", background);
}
