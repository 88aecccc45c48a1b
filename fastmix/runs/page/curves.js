// Curves of runs, or means over their seeds, with one cross-hair and one legend for all charts.
const LEFT = 46, RIGHT = 16, TOP = 10, BOTTOM = 30;
const NEAR = 30; // pixels between the pointer and the curve that it names
const legend = document.getElementById("legend");
let cursor = null; // the epoch under the cross-hair

const series = () => facts[kept.by === "mean" ? "means" : "runs"];
const matches = (one) => one.runs.some((run) => shown.has(run));
const visible = () => series().filter((one) => matches(one) && !kept.hidden.includes(one.id));

// Index of the value at the recorded epoch nearest to one; -1 where the curve has not come so far.
function nearest(epochs, epoch) {
  const last = epochs.length - 1;
  if (last < 0 || epoch > epochs[last] + (last ? epochs[last] - epochs[last - 1] : 0) / 2) return -1;
  let k = epochs.findIndex((one) => one >= epoch);
  if (k < 0) k = last;
  return k > 0 && epoch - epochs[k - 1] < epochs[k] - epoch ? k - 1 : k;
}

// Round numbers from low to high, about so many.
function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((one) => one >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, k) => (first + k) * step);
}

class Chart {
  constructor(figure) {
    [this.figure, this.key] = [figure, figure.dataset.curve];
    [this.svg, this.tip] = [figure.querySelector("svg"), figure.querySelector(".tip")];
    this.svg.addEventListener("pointermove", (event) => this.hover(event));
    this.svg.addEventListener("pointerleave", () => point(null));
    this.svg.addEventListener("blur", () => point(null));
    this.svg.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  draw() {
    const { width, height } = this.svg.getBoundingClientRect();
    [this.middle, this.floor] = [width / 2, height - BOTTOM];
    const curves = visible().map((one) => [one, ...one[this.key]]).filter(([, epochs]) => epochs.length);
    this.epochs = [...new Set(curves.flatMap(([, epochs]) => epochs))].sort((a, b) => a - b);
    const end = this.epochs.at(-1) ?? 1;
    this.first = Math.min(kept.from * end, end - 1);
    const seen = curves.flatMap(([, epochs, values, spread]) =>
      epochs.flatMap((epoch, k) => (epoch < this.first ? [] : [-1, 1].map((side) => values[k] + side * (spread?.[k] ?? 0)))));
    let [low, high] = [seen.reduce((a, b) => Math.min(a, b), Infinity), seen.reduce((a, b) => Math.max(a, b), -Infinity)];
    if (low > high) [low, high] = [0, 1];
    const margin = (high - low || 1) * 0.04;
    [low, high] = [low - margin, high + margin];
    this.x = (epoch) => LEFT + ((epoch - this.first) / (end - this.first || 1)) * (width - LEFT - RIGHT);
    this.y = (value) => TOP + ((high - value) / (high - low)) * (height - TOP - BOTTOM);

    const back = make("g", { class: "axes" }), box = { x: LEFT, y: TOP, width: Math.max(1, width - LEFT - RIGHT), height: height - TOP - BOTTOM };
    for (const value of ticks(low, high, 6)) {
      back.append(make("line", { x1: LEFT, x2: width - RIGHT, y1: this.y(value), y2: this.y(value) }));
      back.append(make("text", { x: LEFT - 8, y: this.y(value) + 4, "text-anchor": "end" }, String(Number(value.toPrecision(6)))));
    }
    for (const value of ticks(this.first, end, width / 90)) {
      if (Number.isInteger(value)) back.append(make("text", { x: this.x(value), y: height - BOTTOM + 18, "text-anchor": "middle" }, value));
    }
    const clip = make("clipPath", { id: `clip-${this.key}` });
    clip.append(make("rect", box));
    this.lines = make("g", { "clip-path": `url(#clip-${this.key})`, class: "lines" });
    this.drawn = curves.map(([one, epochs, values, spread = []]) => {
      const at = (value, k) => `${this.x(epochs[k]).toFixed(1)} ${this.y(value).toFixed(1)}`;
      const group = make("g", { class: one.look });
      if (spread.length) {
        const [up, down] = [1, -1].map((side) => values.map((value, k) => at(value + side * spread[k], k)));
        group.append(make("path", { class: "band", d: `M${[...up, ...down.reverse()].join("L")}Z` }));
      }
      group.append(make("path", { class: "line", d: `M${values.map(at).join("L")}` }));
      if (epochs.length === 1) group.append(make("circle", { r: 3, cx: this.x(epochs[0]), cy: this.y(values[0]) }));
      this.lines.append(group);
      return { one, epochs, values, group };
    });
    this.above = make("g", { "clip-path": `url(#clip-${this.key})`, class: "lines meant" }); // the curve that is meant
    this.marks = make("g", { class: "marks" });
    this.svg.replaceChildren(clip, back, this.lines, this.above, this.marks);
    this.mark();
  }

  hover(event) {
    const box = this.svg.getBoundingClientRect(), [x, y] = [event.clientX - box.x, event.clientY - box.y];
    const within = this.epochs.filter((epoch) => epoch >= this.first);
    if (!within.length) return;
    const epoch = within.reduce((a, b) => (Math.abs(this.x(b) - x) < Math.abs(this.x(a) - x) ? b : a));
    const gaps = this.drawn.map(({ epochs, values }) => {
      const k = nearest(epochs, epoch);
      return k < 0 ? Infinity : Math.abs(this.y(values[k]) - y);
    });
    const gap = gaps.reduce((a, b) => Math.min(a, b), Infinity);
    point(epoch, gap < NEAR ? this.drawn[gaps.indexOf(gap)].one.id : null, this);
  }

  press(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1 }, within = this.epochs.filter((epoch) => epoch >= this.first);
    if (event.key === "Escape") point(null);
    if (!(event.key in steps) || !within.length) return;
    event.preventDefault();
    const now = cursor === null ? within.length : Math.max(0, within.findIndex((epoch) => epoch >= cursor));
    point(within[Math.min(within.length - 1, Math.max(0, now + steps[event.key]))], null, this);
  }

  // The cross-hair, a dot on each curve, and the name of the curve that is meant.
  mark(meant = null, here = false) {
    this.marks.replaceChildren();
    this.tip.hidden = true;
    const brought = this.drawn.find(({ one }) => one.id === meant);
    this.above.replaceChildren(...(brought ? [brought.group.cloneNode(true)] : []));
    this.lines.classList.toggle("dimmed", Boolean(brought));
    if (cursor === null || cursor < this.first) return;
    const x = this.x(cursor);
    this.marks.append(make("line", { x1: x, x2: x, y1: TOP, y2: this.floor }));
    for (const { one, epochs, values } of this.drawn) {
      const k = nearest(epochs, cursor);
      if (k < 0 || epochs[k] < this.first || (meant !== null && one.id !== meant)) continue;
      this.marks.append(make("circle", { class: one.look, r: 3.5, cx: this.x(epochs[k]), cy: this.y(values[k]) }));
      if (!here || one.id !== meant) continue;
      this.tip.textContent = `${one.name}: ${told(one, this.key, k)}, epoch ${epochs[k]}`;
      this.tip.hidden = false;
      this.tip.classList.toggle("left", x > this.middle);
      this.tip.style.left = `${x}px`;
      this.tip.style.top = `${this.y(values[k])}px`;
    }
  }
}

// The k-th value of a curve, with its deviation; a dash where there is none.
function told(one, key, k) {
  const [, values, spread = []] = one[key];
  const digits = key === "top1" ? 2 : 4;
  return [values[k], spread[k]].filter((value) => value !== undefined).map((value) => value.toFixed(digits)).join(" ± ") || "–";
}

const charts = all("figure[data-curve]").map((figure) => new Chart(figure));

// Puts the cross-hair of all charts at an epoch, or away; `meant`: the curve to bring out.
function point(epoch, meant = null, chart = null) {
  const moved = cursor !== epoch;
  cursor = epoch;
  for (const one of charts) one.mark(meant, one === chart);
  if (moved) read();
}

// The legend's values: at the cross-hair, or the last ones.
function read() {
  document.getElementById("epoch").textContent = cursor === null ? "last epoch" : `epoch ${cursor}`;
  const byId = new Map(series().map((one) => [one.id, one]));
  for (const output of all("output", legend)) {
    const one = byId.get(output.dataset.of), [epochs] = one[output.dataset.curve];
    output.textContent = told(one, output.dataset.curve, cursor === null ? epochs.length - 1 : nearest(epochs, cursor));
  }
}

function listed() {
  legend.classList.toggle("wider", kept.by === "mean"); // a deviation beside each value
  legend.replaceChildren(...series().filter(matches).map((one) => {
    const button = make("button", { type: "button", "aria-pressed": !kept.hidden.includes(one.id), "data-id": one.id });
    const swatch = make("svg", { class: "swatch", width: 26, height: 10, "aria-hidden": true });
    swatch.append(make("path", { class: one.look, d: "M1 5H25" }));
    button.append(swatch, make("span", { class: "name", title: one.name }, one.name));
    for (const { key } of charts) button.append(make("output", { "data-of": one.id, "data-curve": key, "aria-live": "off" }));
    button.addEventListener("click", () => hide(kept.hidden.includes(one.id) ? kept.hidden.filter((id) => id !== one.id) : [...kept.hidden, one.id]));
    button.addEventListener("dblclick", () => hide(series().map(({ id }) => id).filter((id) => id !== one.id)));
    for (const [event, id] of [["pointerenter", one.id], ["pointerleave", null]]) {
      button.addEventListener(event, () => charts.forEach((chart) => chart.mark(kept.hidden.includes(id) ? null : id)));
    }
    const item = make("li");
    item.append(button);
    return item;
  }));
}

function hide(hidden) {
  keep({ hidden });
  for (const button of all("button", legend)) button.setAttribute("aria-pressed", !hidden.includes(button.dataset.id));
  refresh();
}

function refresh() {
  for (const chart of charts) chart.draw();
  read();
}
