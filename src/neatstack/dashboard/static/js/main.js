// The page: listens to the server's events and shows them.

import { addSample, draw, rebuild, setSamples } from "./charts.js";
import { showLive, showTiles, showWho } from "./header.js";
import { showMap, showShares } from "./map.js";
import { prepare } from "./palette.js";
import { prepareReplicas, showReplicas } from "./replicas.js";
import { addEvents, drawAxis, prepareTimeline, setEvents } from "./timeline.js";

const SILENCE = 8000; // milliseconds without a word of the server, which speaks each second
const AGAIN = 3000; // milliseconds until we try a server that has refused us

let state = null;
let source = null;
let retry = 0;
let heard = 0;

function listen() {
  clearTimeout(retry);
  source?.close();
  source = new EventSource("events");
  source.addEventListener("past", ({ data }) => {
    const past = JSON.parse(data);
    setSamples(past.samples);
    setEvents(past.events);
  });
  source.addEventListener("state", ({ data }) => show(JSON.parse(data)));
  source.addEventListener("error", () => {
    lost();
    if (source.readyState === EventSource.CLOSED) retry = setTimeout(listen, AGAIN); // else it tries by itself
  });
}

function lost() {
  showLive("the dashboard does not answer", 0);
  if (state?.stack) showReplicas(state.stack, false);
}

function show(told) {
  state = told;
  heard = performance.now();
  showLive(told.problem, told.silent);
  if (told.sample) addSample(told.sample);
  addEvents(told.events);
  if (!told.stack) return;
  showWho(told.stack);
  showTiles(told.stack);
  showMap(told.stack);
  showShares(told.stack);
  showReplicas(told.stack, !told.problem);
  draw(told.time);
  redrawAxis();
}

function redrawAxis() {
  if (state?.stack) drawAxis(state.time, state.stack.replicas.map((replica) => replica.id));
}

// a page that nobody sees asks for nothing; when it is seen again it is told all that it has missed
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(retry);
    source?.close();
  } else {
    listen();
  }
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  prepare();
  rebuild();
  if (state?.stack) draw(state.time);
});

setInterval(() => {
  if (!document.hidden && heard && performance.now() - heard > SILENCE) lost();
}, 1000);

prepare();
prepareReplicas();
prepareTimeline(redrawAxis);
listen();
