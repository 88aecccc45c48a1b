const facts = JSON.parse(document.getElementById("facts").textContent);

// What the reader has chosen: kept with the page's place in the history, so that a reload finds it again. Of many runs
// means are shown first.
const by = facts.runs.length > 30 ? "mean" : "run";
const kept = { filter: "", hidden: [], sorted: {}, open: {}, by, from: 0, seen: null, ...history.state };

function keep(change) {
  Object.assign(kept, change);
  history.replaceState(kept, "");
}

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const SVG = "http://www.w3.org/2000/svg";

// An element with attributes and text. Text is never markup.
function make(name, attributes = {}, text = "") {
  const drawn = ["svg", "g", "path", "line", "circle", "rect", "text", "clipPath"].includes(name);
  const element = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== "") element.textContent = text;
  return element;
}
