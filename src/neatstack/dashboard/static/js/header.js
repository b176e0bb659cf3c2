// Who the stack is, whether it answers, and its numbers in short.

import { byId, el, keyed, mark, say } from "./dom.js";
import { count, duration, megabytes, plural } from "./format.js";

export function showWho(stack) {
  say(byId("name"), stack.name);
  document.title = `${stack.name} · NEaT`;
  const parts = [stack.address, stack.device, stack.version && `version ${stack.version}`, stack.uptime !== null && `up ${duration(stack.uptime)}`];
  say(byId("where"), parts.filter(Boolean).join(" · "));
}

/** `problem` is null while all is well. */
export function showLive(problem, silent) {
  mark(byId("live"), "data-state", problem ? "silent" : "live");
  say(byId("live-text"), problem ? "no answer" : "live");
  const box = byId("problem");
  box.hidden = !problem;
  say(byId("problem-text"), problem ? `${sentence(problem)}; what is shown is what was known last.` : "");
  say(byId("problem-for"), problem && silent >= 1 ? `For ${duration(silent)}.` : ""); // not read out each second
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export function showTiles(stack) {
  const { rates } = stack;
  const tiles = [
    ["active replicas", count(stack.active), stack.draining.length ? `${stack.draining.length} draining` : "none draining"],
    ["spares ready", `${stack.spares_ready}`, `of ${stack.spares}`, stack.spares && !stack.spares_ready ? "bad" : null],
    ["connections", count(stack.connections), `${count(rates.opened)} new/s`],
    ["requests/s", count(rates.requests), `${count(rates.packets_in + rates.packets_out)} packets/s`],
    ["MB/s", megabytes(rates.bytes_in + rates.bytes_out), `${megabytes(rates.bytes_in)} in, ${megabytes(rates.bytes_out)} out`],
    ["pins", count(stack.pins), "flows off their bucket"],
    ["wrong replica", count(stack.wrong_replica), stack.wrong_replica ? "packets went astray" : "✓ no packet astray", stack.wrong_replica ? "bad" : "good"],
    ["drops/s", count(rates.drops), plural(stack.queue_drops, "full queue")],
  ];
  const made = keyed(byId("tiles"), tiles.map(([name]) => name), (name) =>
    el("div", { class: "tile" }, el("dt", {}, name), el("dd"), el("dd", { class: "note" })));
  tiles.forEach(([, value, note, state], place) => {
    say(made[place].children[1], value);
    say(made[place].children[2], note);
    mark(made[place], "data-state", state ?? null);
  });
}
