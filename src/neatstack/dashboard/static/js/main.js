// The page: listens to the server's events and shows them.

import { addSample, draw, rebuild, setSamples } from "./charts.js";
import { showLive, showTiles, showWho } from "./header.js";
import { showMap, showShares } from "./map.js";
import { prepare } from "./palette.js";
import { prepareReplicas, showReplicas } from "./replicas.js";
import { addEvents, drawAxis, prepareTimeline, setEvents } from "./timeline.js";

const AGAIN = 3000; // milliseconds until we try a server that has refused us

let state = null;
let source = null;
let retry = 0;

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
    showLive("the dashboard does not answer", 0);
    if (state?.stack) showReplicas(state.stack, false);
    if (source.readyState === EventSource.CLOSED) retry = setTimeout(listen, AGAIN); // else it tries by itself
  });
}

function show(told) {
  state = told;
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

prepare();
prepareReplicas();
prepareTimeline(redrawAxis);
listen();
