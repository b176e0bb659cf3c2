// The table of replicas, and the buttons that act on them.

import { act } from "./actions.js";
import { byId, el, keyed, mark, say } from "./dom.js";
import { NOTHING, count, megabytes, milliseconds, percent, plural } from "./format.js";
import { light } from "./map.js";
import { chip, dress } from "./palette.js";

let stack = null;

export function showReplicas(told, answering) {
  stack = told;
  const rows = keyed(byId("replica-rows"), stack.replicas.map((replica) => replica.id), newRow);
  stack.replicas.forEach((replica, place) => showRow(rows[place], replica, answering));
  say(byId("wanted"), stack.active);
  byId("fewer").disabled = !answering || stack.active <= 1;
  byId("more").disabled = !answering || stack.active >= stack.max_replicas;
  byId("rejuvenate").disabled = !answering;
  say(byId("scaling"), scaling());
}

function scaling() {
  const parts = [`up to ${stack.max_replicas}`];
  if (stack.auto) parts.push(`automatic, ${stack.auto.min} to ${stack.auto.max}`);
  if (stack.under_way) parts.push(stack.under_way);
  const schedule = stack.rejuvenation;
  if (schedule && schedule.every) parts.push(`rejuvenation every ${count(schedule.every)} s, next in ${count(schedule.next_in)} s`);
  return parts.join(" · ");
}

const CELLS = ["state", "incarnation", "connections", "requests", "bytes", "busy", "buckets", "pins", "drops", "restarts", "gap"];

function newRow(key) {
  const slot = Number(key);
  const kill = el("button", { type: "button", "data-action": "kill", "aria-label": `Kill replica ${slot}` }, "Kill");
  kill.addEventListener("click", () => askToKill(slot));
  const made = el("tr", {}, el("td", {}, chip(slot)), ...CELLS.map((name) => el("td", { "data-cell": name, class: name === "state" ? "left" : null })), el("td", {}, kill));
  cell(made, "state").append(el("span", { class: "state" }));
  cell(made, "busy").append(dress(el("span", { class: "busy", "aria-hidden": "true" }, el("i")), slot), el("span", { class: "share-of" }));
  made.addEventListener("mouseenter", () => light(slot));
  made.addEventListener("mouseleave", () => light(null));
  return made;
}

const cell = (row, name) => row.querySelector(`[data-cell="${name}"]`);

function showRow(row, replica, answering) {
  const state = cell(row, "state").firstElementChild;
  say(state, replica.state === "running" && !replica.takes_new ? "no new flows" : replica.state);
  mark(state, "data-state", replica.state);
  const drops = Object.entries(replica.drops).filter(([, number]) => number > 0);
  const values = {
    incarnation: count(replica.incarnation),
    connections: count(replica.connections),
    requests: count(replica.rates.requests),
    bytes: megabytes(replica.rates.bytes_in + replica.rates.bytes_out),
    buckets: count(replica.buckets),
    pins: count(replica.pins),
    drops: count(drops.reduce((sum, [, number]) => sum + number, 0)),
    restarts: count(replica.recoveries),
    gap: milliseconds(replica.gap_ms),
  };
  for (const [name, value] of Object.entries(values)) say(cell(row, name), value);
  mark(cell(row, "drops"), "title", drops.map(([why, number]) => `${why}: ${number}`).join(", ") || "none");
  const [bar, share] = cell(row, "busy").children;
  bar.firstElementChild.style.width = percent(replica.busy ?? 0).replace(" ", "");
  say(share, replica.busy === null ? NOTHING : percent(replica.busy));
  row.querySelector("button").disabled = !answering || replica.state === "stopped";
}

function askToKill(slot) {
  const replica = stack.replicas.find((each) => each.id === slot);
  const spares = stack.spares_ready ? `a spare takes over its ${plural(replica?.connections ?? 0, "connection")}` : "no spare is ready: its connections wait until a process is started";
  act({ name: "kill", wish: { replica: slot }, title: `Kill replica ${slot}?`, text: `SIGKILL to its process (pid ${replica?.pid ?? "?"}); ${spares}.`, yes: "Kill" });
}

function askToScale(step) {
  const replicas = stack.active + step;
  const text = step > 0
    ? "A replica is started, and buckets move to it. Connections that are open stay where they are."
    : "One replica gives its buckets away. It keeps the connections that it has, and ends with the last of them.";
  act({ name: "scale", wish: { replicas }, title: `Scale to ${plural(replicas, "replica")}?`, text, yes: "Scale" });
}

export function prepareReplicas() {
  byId("fewer").addEventListener("click", () => askToScale(-1));
  byId("more").addEventListener("click", () => askToScale(1));
  byId("rejuvenate").addEventListener("click", () => act({
    name: "rejuvenate", wish: {}, title: "Rejuvenate all replicas?", yes: "Rejuvenate",
    text: "One after another is replaced by a new process in a new random layout of memory, which takes over its connections.",
  }));
}
