// Building the page: elements and text, never HTML. What a stack says may come from strangers.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element with attributes and children; a child is a node or text. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same of SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

/** Change text only where it differs: readers of the page are not told what stays the same. */
export function say(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

/** Change an attribute only where it differs; null removes it. */
export function mark(element, name, value) {
  if (value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Make the children of `parent` those of `keys`, in order: what is there already is kept, with its focus. */
export function keyed(parent, keys, make) {
  const there = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  keys.map(String).forEach((key, place) => {
    let child = there.get(key);
    there.delete(key);
    if (!child) {
      child = make(key);
      child.dataset.key = key;
    }
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
  for (const child of there.values()) child.remove();
  return [...parent.children];
}

/** The box beside the pointer, or beside an element that has the focus. */
export const tip = {
  show(x, y, ...lines) {
    const box = byId("tip");
    box.replaceChildren(...lines);
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    const right = document.documentElement.clientWidth - 8;
    const left = x + 14 + width > right ? Math.max(8, x - 14 - width) : x + 14;
    box.style.left = `${left + window.scrollX}px`;
    box.style.top = `${Math.max(8, y - height / 2) + window.scrollY}px`;
  },
  hide() {
    byId("tip").hidden = true;
  },
};
