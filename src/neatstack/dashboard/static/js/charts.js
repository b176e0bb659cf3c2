// Throughput of each replica over the last minutes: stacked areas, and lines for how busy each is.

/* global uPlot */
import { byId, el, keyed, say, tip } from "./dom.js";
import { count, megabytes, percent, timeOfDay } from "./format.js";
import { chip, colour, isStriped, theme } from "./palette.js";

const SPAN = 300, LEAST_SPAN = 60; // seconds shown: all that is known, within these
const AXIS = 54; // pixels for the numbers
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]]; // so that lines differ not by colour alone

const CHARTS = [
  { id: "requests", of: (point) => point[0], tell: count, stacked: true, least: 10 },
  { id: "bytes", of: (point) => point[1], tell: megabytes, stacked: true, least: 1e4 },
  { id: "busy", of: (point) => point[2], tell: percent, stacked: false, least: 1 },
];

let samples = [];
let slots = [];
let plots = [];

/** Forget all, begin with these. */
export function setSamples(past) {
  samples = past;
}

export function addSample(sample) {
  const last = samples[samples.length - 1];
  if (last && sample.time <= last.time) return;
  samples.push(sample);
  while (samples[0].time < sample.time - SPAN) samples.shift();
}

/** Draw what there is; `now` is the right edge in seconds since 1970. */
export function draw(now) {
  const seen = [...new Set(samples.flatMap((sample) => Object.keys(sample.replicas).map(Number)))].sort((a, b) => a - b);
  if (seen.join() !== slots.join() || !plots.length) {
    slots = seen;
    build();
  }
  const times = samples.map((sample) => sample.time);
  const from = Math.min(Math.max(times[0] ?? now, now - SPAN), now - LEAST_SPAN);
  plots.forEach((plot, place) => {
    const chart = CHARTS[place];
    plot.batch(() => {
      plot.setData([times, ...lines(chart)], false);
      plot.setScale("x", { min: from, max: now });
      plot.setScale("y", { min: 0, max: top(chart, plot.data.slice(1)) });
    });
    say(byId(`now-${chart.id}`), summary(chart));
  });
}

/** Again from nothing: the colours have changed. */
export function rebuild() {
  build();
}

function build() {
  plots.forEach((plot) => plot.destroy());
  plots = CHARTS.map((chart) => {
    const box = byId(`chart-${chart.id}`);
    return new uPlot(options(chart, box), [[], ...slots.map(() => [])], box);
  });
  keyed(byId("legend"), slots, (slot) => el("li", {}, chip(Number(slot)), `replica ${slot}`));
}

function options(chart, box) {
  const grid = { stroke: theme("grid"), width: 1 };
  const axis = { stroke: theme("quiet"), font: "11px system-ui, sans-serif", grid, ticks: { show: false } };
  return {
    ...room(box),
    padding: [8, 26, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { show: false }, drag: { x: false, y: false }, sync: { key: "time" } },
    scales: { x: { time: true, auto: false }, y: { auto: false } },
    axes: [
      { ...axis, size: 22, gap: 4, space: 90, values: clockTimes },
      { ...axis, size: AXIS, gap: 6, space: 30, values: (plot, values) => values.map(chart.tell) },
    ],
    series: [{}, ...slots.map((slot, place) => series(chart, slot, place))],
    bands: chart.stacked ? slots.slice(1).map((slot, place) => ({ series: [place + 2, place + 1], fill: shade(slot) })) : [],
    hooks: { setCursor: [(plot) => point(plot, chart)], ready: [(plot) => plot.over.addEventListener("mouseleave", tip.hide)] },
  };
}

const room = (box) => ({ width: Math.max(box.clientWidth, 120), height: Math.max(box.clientHeight, 60) });

function series(chart, slot, place) {
  return {
    stroke: colour(slot),
    width: 1.6,
    fill: chart.stacked && place === 0 ? shade(slot) : undefined,
    dash: chart.stacked ? undefined : DASHES[isStriped(slot) ? 3 : slot % 3],
    points: { show: false },
    spanGaps: false,
  };
}

const shade = (slot) => `${colour(slot)}59`;

/** The values of each replica; stacked: of it and all before it. */
function lines(chart) {
  const under = samples.map(() => 0);
  return slots.map((slot) =>
    samples.map((sample, at) => {
      const told = sample.replicas[slot];
      if (!chart.stacked) return told ? chart.of(told) : null;
      under[at] += told ? chart.of(told) : 0;
      return under[at];
    }),
  );
}

const top = (chart, values) => (chart.stacked ? Math.max(chart.least, ...values.flat()) * 1.12 : chart.least * 1.05);

function summary(chart) {
  const last = samples[samples.length - 1];
  const values = last ? Object.values(last.replicas).map(chart.of) : [];
  if (!values.length) return "";
  const sum = values.reduce((all, value) => all + value, 0);
  return chart.stacked ? chart.tell(sum) : `${(sum).toFixed(2)} cores`;
}

/** The axis' times; seconds only where they are needed. */
const clockTimes = (plot, times, axis, space, step) => times.map((time) => timeOfDay(time).slice(0, step % 60 ? 8 : 5));

/** The box beside the pointer: each replica's value at that time. */
function point(plot, chart) {
  const { left, top: y, idx } = plot.cursor;
  const sample = samples[idx];
  if (left < 0 || y < 0 || !sample || !plot.over.matches(":hover")) return;
  const edge = plot.over.getBoundingClientRect();
  const rows = slots.filter((slot) => sample.replicas[slot]).reverse();
  const told = rows.map((slot) => el("div", { class: "line" }, chip(slot), el("span", {}, chart.tell(chart.of(sample.replicas[slot])))));
  tip.show(edge.left + left, edge.top + edge.height / 2, el("div", { class: "quiet" }, timeOfDay(sample.time)), ...told);
}

const resized = new ResizeObserver(() => {
  plots.forEach((plot, place) => plot.setSize(room(byId(`chart-${CHARTS[place].id}`))));
});
CHARTS.forEach(({ id }) => resized.observe(byId(`chart-${id}`)));
