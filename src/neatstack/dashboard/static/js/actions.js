// Acting on the stack: asked back first, the answer or the refusal shown.

import { byId, mark, say } from "./dom.js";

const SHOWN = 9000; // milliseconds
let hiding = 0;

/** Ask in the page, then the server; shows what comes of it. */
export async function act({ name, wish, title, text, yes }) {
  if (!(await confirmed(title, text, yes))) return;
  tell("waiting", `${yes}: asking the stack…`);
  const { state, line } = await post(name, wish);
  tell(state, line);
  hiding = setTimeout(() => { byId("said").hidden = true; }, SHOWN);
}

async function post(name, wish) {
  try {
    const response = await fetch(`actions/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Neat-Action": name },
      body: JSON.stringify(wish),
    });
    const answer = (response.headers.get("content-type") ?? "").includes("json") ? await response.json() : { error: await response.text() };
    return response.ok ? { state: "done", line: answer.text } : { state: "refused", line: answer.error };
  } catch {
    return { state: "refused", line: "the dashboard does not answer" };
  }
}

function tell(state, line) {
  clearTimeout(hiding);
  const box = byId("said");
  mark(box, "data-state", state);
  say(box, line);
  box.hidden = false;
}

function confirmed(title, text, yes) {
  const dialog = byId("ask");
  say(byId("ask-title"), title);
  say(byId("ask-text"), text);
  say(byId("ask-yes"), yes);
  return new Promise((resolve) => {
    byId("ask-yes").onclick = () => dialog.close("yes");
    byId("ask-no").onclick = () => dialog.close("no");
    dialog.returnValue = "no";
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
    dialog.showModal();
    byId("ask-no").focus();
  });
}
