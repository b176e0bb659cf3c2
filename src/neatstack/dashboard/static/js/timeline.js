// What has happened to the stack: marks on a time axis, one lane a replica, and the list of all under it.

import { byId, el, keyed, mark, say, svg, tip } from "./dom.js";
import { NOTHING, count, isNumber, milliseconds, plural, timeOfDay } from "./format.js";
import { chip } from "./palette.js";

const LANE = 30, TOP = 0, FOOT = 24, LEFT = 76, RIGHT = 16; // pixels
const ROOM = 64; // pixels for a label before the next mark
const LISTED = 100;
const KEPT = 1000;
const TICKS = { 5: 60, 15: 180, 60: 600 }; // seconds between ticks, by minutes shown
const STACK = -1; // the lane of what is no replica's

// the shapes differ, not only the colours
const KINDS = {
  crash: ["crash", "M-4.5-4.5 4.5 4.5M4.5-4.5-4.5 4.5"],
  rejuvenation: ["rejuvenation", "M4.8-2.2A5.3 5.3 0 1 0 5.3 1.2M5.6-5.8V-1.8H1.6"],
  upgrade: ["upgrade", "M0-5.5 5.5 4.5H-5.5Z"],
  scale_up: ["scale up", "M-5.5 0H5.5M0-5.5V5.5"],
  scale_down: ["scale down", "M-5.5 0H5.5"],
  drained: ["drained", "M-5-5H5V5H-5Z"],
  deadline: ["deadline", "M-5-5.5H5L-5 5.5H5Z"],
  autoscale: ["autoscale", "M0-6 6 0 0 6-6 0Z"],
};
const OTHER = ["event", "M0-4A4 4 0 1 1-.01-4Z"];

let events = [];
let minutes = 5;

export const setEvents = (past) => { events = []; addEvents(past); };

export function addEvents(fresh) {
  const known = new Set(events.map(keyOf));
  events.push(...fresh.filter((event) => isNumber(event.time) && !known.has(keyOf(event))));
  events.sort((a, b) => a.time - b.time);
  events = events.slice(-KEPT);
  if (fresh.length || !events.length) showList();
}

const nameOf = (event) => (KINDS[event.kind] ?? [event.kind || OTHER[0]])[0];
const glyph = (kind) => svg("path", { d: (KINDS[kind] ?? OTHER)[1] });
const icon = (kind) => svg("svg", { width: 16, height: 16, viewBox: "-8 -8 16 16", class: "mark", "data-kind": kind, "aria-hidden": "true" }, glyph(kind));

/** Draw the axis; `replicas` are the slots that have lanes in any case. */
export function drawAxis(now, replicas) {
  const box = byId("axis");
  const from = now - minutes * 60;
  const shown = events.filter((event) => event.time >= from);
  const lanes = [...new Set([STACK, ...replicas, ...shown.map((event) => event.replica ?? STACK)])].sort((a, b) => a - b);
  const width = Math.max(box.clientWidth, 300), height = TOP + lanes.length * LANE + FOOT;
  const place = (time) => LEFT + ((time - from) / (minutes * 60)) * (width - LEFT - RIGHT);
  const level = (slot) => TOP + (lanes.indexOf(slot) + 0.5) * LANE;
  let picture = box.firstElementChild;
  if (!picture) {
    picture = svg("svg", { role: "group", "aria-label": "Events on a time axis" }, svg("g", { class: "back", "aria-hidden": "true" }), svg("g", { class: "front" }));
    box.append(picture);
  }
  mark(picture, "viewBox", `0 0 ${width} ${height}`);
  mark(picture, "height", height);
  picture.children[0].replaceChildren(...lanes.flatMap((slot) => lane(slot, level(slot), width)), ...ticks(from, now, place, height));
  showMarks(picture.children[1], shown, place, level, width);
}

const lane = (slot, y, width) => [
  svg("line", { class: "lane", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }),
  svg("text", { x: 0, y: y + 4 }, slot === STACK ? "stack" : `replica ${slot}`),
];

function ticks(from, now, place, height) {
  const step = TICKS[minutes];
  const made = [];
  for (let time = Math.ceil(from / step) * step; time <= now; time += step) {
    const x = place(time);
    made.push(svg("line", { class: "tick", x1: x, x2: x, y1: TOP, y2: height - FOOT }));
    made.push(svg("text", { x, y: height - 6, "text-anchor": "middle" }, timeOfDay(time).slice(0, 5)));
  }
  return made;
}

function showMarks(parent, shown, place, level, edge) {
  const made = keyed(parent, shown.map(keyOf), (key) => newMark(shown.find((event) => keyOf(event) === key)));
  const next = new Map(); // the next mark's x in each lane, from the right
  for (let at = shown.length - 1; at >= 0; at -= 1) {
    const event = shown[at], slot = event.replica ?? STACK, x = place(event.time);
    mark(made[at], "transform", `translate(${x.toFixed(1)} ${level(slot)})`);
    const label = made[at].querySelector(".gap"), atEdge = x + ROOM > edge;
    mark(label, "x", atEdge ? -13 : 13);
    mark(label, "text-anchor", atEdge ? "end" : "start");
    label.style.display = (next.get(slot) ?? Infinity) - x < ROOM ? "none" : "";
    next.set(slot, x);
  }
}

const keyOf = (event) => `${event.id}-${event.at_ns}`;

function newMark(event) {
  const gap = isNumber(event.gap_ms) ? milliseconds(event.gap_ms) : "";
  const made = svg("g", { class: "mark", "data-kind": event.kind, tabindex: 0, role: "img", "aria-label": told(event) },
    svg("circle", { class: "hit", r: 10 }), glyph(event.kind), svg("text", { class: "gap", x: 13, y: 4 }, gap));
  const show = () => {
    const { right, top, height } = made.querySelector(".hit").getBoundingClientRect();
    tip.show(right, top + height / 2, ...details(event));
  };
  for (const kind of ["mouseenter", "focus"]) made.addEventListener(kind, show);
  for (const kind of ["mouseleave", "blur"]) made.addEventListener(kind, tip.hide);
  return made;
}

function details(event) {
  const line = (name, value) => el("div", { class: "line" }, el("span", { class: "quiet" }, name), el("span", {}, value));
  return [
    el("div", { class: "line" }, el("strong", {}, nameOf(event)), el("span", { class: "quiet" }, timeOfDay(event.time))),
    el("div", {}, event.text),
    ...(isNumber(event.gap_ms) ? [line("gap", milliseconds(event.gap_ms))] : []),
    ...(isNumber(event.adopted) ? [line("connections kept", count(event.adopted))] : []),
    ...(isNumber(event.lost) ? [line("connections lost", count(event.lost))] : []),
  ];
}

function told(event) {
  const parts = [timeOfDay(event.time), nameOf(event), event.replica === null ? null : `replica ${event.replica}`, event.text];
  if (isNumber(event.gap_ms)) parts.push(`gap ${milliseconds(event.gap_ms)}`);
  if (isNumber(event.lost)) parts.push(`${plural(event.lost, "connection")} lost`);
  return parts.filter(Boolean).join(", ");
}

function showList() {
  const latest = events.slice(-LISTED).reverse();
  byId("no-events").hidden = latest.length > 0;
  keyed(byId("event-rows"), latest.map(keyOf), (key) => row(latest.find((event) => keyOf(event) === key)));
}

function row(event) {
  const number = (value) => el("td", {}, isNumber(value) ? count(value) : NOTHING);
  return el("tr", { "data-kind": event.kind },
    el("td", {}, timeOfDay(event.time)), el("td", {}, icon(event.kind), nameOf(event)),
    el("td", {}, isNumber(event.replica) ? chip(event.replica) : NOTHING), el("td", {}, event.text),
    el("td", {}, milliseconds(event.gap_ms)), number(event.adopted), number(event.lost));
}

/** The marks' legend, and the buttons that choose how far back the axis goes. */
export function prepareTimeline(redraw) {
  byId("kinds").append(...Object.entries(KINDS).map(([kind, [name]]) => el("li", {}, icon(kind), name)));
  const buttons = [...document.querySelectorAll("button.span")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      minutes = Number(button.dataset.minutes);
      for (const each of buttons) mark(each, "aria-pressed", each === button);
      redraw();
    });
  }
  new ResizeObserver(redraw).observe(byId("axis"));
}
