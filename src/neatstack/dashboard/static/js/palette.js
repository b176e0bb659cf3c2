// One colour for each replica. Colour is never the only cue: the number stands beside it, and from the ninth on a stripe.

import { el } from "./dom.js";

const COLOURS = 8;
const DARK = "#10131a", LIGHT = "#ffffff";

const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const colour = (slot) => variable(`--r${slot % COLOURS}`);
export const theme = (name) => variable(`--${name}`);
export const isStriped = (slot) => slot >= COLOURS;

/** Give an element its replica's colour, as --of, and one that can be read on it, as --on. */
export function dress(element, slot) {
  if (element.dataset.slot === String(slot)) return element;
  element.dataset.slot = slot;
  element.style.setProperty("--of", `var(--r${slot % COLOURS})`);
  element.style.setProperty("--on", `var(--on${slot % COLOURS})`);
  element.classList.toggle("striped", isStriped(slot));
  return element;
}

/** The square with a replica's number. */
export const chip = (slot) => dress(el("span", { class: "chip" }, slot), slot);

/** Choose dark or light text for each colour: whichever has the greater contrast. Again when the scheme changes. */
export function prepare() {
  for (let slot = 0; slot < COLOURS; slot += 1) {
    const ground = luminance(colour(slot));
    const ink = contrast(ground, luminance(DARK)) > contrast(ground, luminance(LIGHT)) ? DARK : LIGHT;
    document.documentElement.style.setProperty(`--on${slot}`, ink);
  }
}

const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);

/** Relative luminance of #rrggbb, as WCAG defines it. */
function luminance(hex) {
  const [red, green, blue] = [1, 3, 5].map((at) => {
    const value = parseInt(hex.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
