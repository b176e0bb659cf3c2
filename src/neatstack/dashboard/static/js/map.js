// Which replica each bucket of the indirection table belongs to, and what share of the work each replica has.

import { byId, el, keyed, mark, say } from "./dom.js";
import { count, isNumber, percent } from "./format.js";
import { dress } from "./palette.js";

const BUCKETS = 256;
const MOVING = 0x40, MOVED = 0x80, OWNER = 0x3f; // flags of an entry, as in the stack's page
const LABELLED = 0.09; // a share below has no room for a label

export function showMap(stack) {
  const table = stack.table;
  say(byId("map-note"), table.length === BUCKETS ? "256 hash buckets, by owner" : "this stack does not tell its table");
  const box = byId("map");
  box.hidden = table.length !== BUCKETS;
  if (box.hidden) return;
  if (!box.childElementCount) box.append(...Array.from({ length: BUCKETS }, () => el("span")));
  const owned = new Map();
  table.forEach((entry, bucket) => {
    const moving = (entry & (MOVING | MOVED)) !== 0;
    const owner = entry === MOVING ? null : entry & OWNER;
    showBucket(box.children[bucket], bucket, owner, moving);
    if (owner !== null) owned.set(owner, (owned.get(owner) ?? 0) + 1);
  });
  const told = [...owned].sort(([a], [b]) => a - b).map(([slot, buckets]) => `replica ${slot}: ${buckets}`);
  mark(box, "aria-label", `256 buckets; ${told.join(", ")}`);
}

function showBucket(cell, bucket, owner, moving) {
  if (owner === null) {
    delete cell.dataset.slot;
    cell.removeAttribute("style");
  } else {
    dress(cell, owner);
  }
  cell.classList.toggle("moving", moving);
  say(cell, owner ?? "·");
  mark(cell, "title", `bucket ${bucket}: ${owner === null ? "moving" : `replica ${owner}`}${owner !== null && moving ? ", moving" : ""}`);
}

/** Light the buckets of one replica; null: all. */
export function light(slot) {
  const box = byId("map");
  mark(box, "data-dim", slot === null ? null : "");
  for (const cell of box.children) cell.classList.toggle("lit", cell.dataset.slot === String(slot));
}

export function showShares(stack) {
  const bars = [
    ["buckets", (replica) => replica.buckets],
    ["connections", (replica) => replica.connections],
    ["requests/s", (replica) => replica.rates.requests],
    ["pins", (replica) => replica.pins],
  ];
  const box = byId("shares");
  if (!box.childElementCount) {
    for (const [name] of bars) {
      box.append(el("span", { class: "label" }, name), el("div", { class: "share", role: "img" }), el("span", { class: "sum" }));
    }
  }
  bars.forEach(([name, value], row) => {
    const [, bar, sum] = [...box.children].slice(row * 3, row * 3 + 3);
    showBar(bar, sum, name, stack.replicas.map((replica) => [replica.id, value(replica) || 0]));
  });
}

function showBar(bar, sum, name, values) {
  const total = values.reduce((all, [, value]) => all + value, 0);
  const parts = values.filter(([, value]) => value > 0);
  const cells = keyed(bar, parts.map(([slot]) => slot), (slot) => dress(el("span"), Number(slot)));
  parts.forEach(([slot, value], place) => {
    const share = value / total;
    cells[place].style.flexGrow = share;
    cells[place].style.flexBasis = 0;
    say(cells[place], share >= LABELLED ? percent(share) : "");
    mark(cells[place], "title", `replica ${slot}: ${count(value)} (${percent(share)})`);
  });
  const told = parts.map(([slot, value]) => `replica ${slot} ${count(value)}, ${percent(value / total)}`).join("; ");
  mark(bar, "aria-label", `${name}: ${told || "none"}`);
  say(sum, isNumber(total) ? count(total) : "");
}
