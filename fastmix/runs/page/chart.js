// A curve of every run, or of means over seeds, with a cross-hair that all charts share.
const LEFT = 46, RIGHT = 16, TOP = 10, BOTTOM = 30;
const NEAR = 30; // pixels between the pointer and the curve that it names
let cursor = null; // the epoch under the cross-hair

const series = () => facts[kept.by === "mean" ? "means" : "runs"];
const matches = (one) => one.runs.some((run) => shown.has(run));
const visible = () => series().filter((one) => matches(one) && !kept.hidden.includes(one.id));
const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);

// Index of the value at the recorded epoch nearest to one; -1 where the curve has not come so far.
function nearest(epochs, epoch) {
  const last = epochs.length - 1;
  if (last < 0 || epoch > epochs[last] + (last ? epochs[last] - epochs[last - 1] : 0) / 2) return -1;
  let k = epochs.findIndex((one) => one >= epoch);
  if (k < 0) k = last;
  return k > 0 && epoch - epochs[k - 1] < epochs[k] - epoch ? k - 1 : k;
}

// The k-th value of a curve, with its deviation; a dash where there is none.
function told(one, key, k) {
  const [, values, spread = []] = one[key], digits = key === "top1" ? 2 : 4;
  const found = [values[k], spread[k]].filter((value) => value !== undefined);
  return found.map((value) => value.toFixed(digits)).join(" ± ") || "–";
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
    this.key = figure.dataset.curve;
    [this.svg, this.tip] = [figure.querySelector("svg"), figure.querySelector(".tip")];
    this.svg.addEventListener("pointermove", (event) => this.hover(event));
    this.svg.addEventListener("pointerleave", () => point(null));
    this.svg.addEventListener("blur", () => point(null));
    this.svg.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  draw() {
    const curves = visible().map((one) => [one, ...one[this.key]]).filter(([, epochs]) => epochs.length);
    this.scale(curves);
    const clip = make("clipPath", { id: `clip-${this.key}` }), inside = { "clip-path": `url(#clip-${this.key})` };
    clip.append(make("rect", { x: LEFT, y: TOP, width: this.right - LEFT, height: this.floor - TOP }));
    this.drawn = curves.map(([one, epochs, values, spread]) => {
      return { one, epochs, values, group: this.curve(one.look, epochs, values, spread) };
    });
    this.lines = make("g", { ...inside, class: "lines" });
    this.lines.append(...this.drawn.map(({ group }) => group));
    this.above = make("g", { ...inside, class: "lines meant" }); // the curve that is meant
    this.marks = make("g", { class: "marks" });
    this.svg.replaceChildren(clip, this.axes(), this.lines, this.above, this.marks);
    this.mark();
  }

  // What is where: the epochs from the chosen first one on, and the values that curves and bands have there.
  scale(curves) {
    const { width, height } = this.svg.getBoundingClientRect();
    [this.right, this.floor] = [Math.max(LEFT + 1, width - RIGHT), height - BOTTOM];
    const every = [...new Set(curves.flatMap(([, epochs]) => epochs))].sort((a, b) => a - b);
    this.last = every.at(-1) ?? 1;
    this.first = Math.min(kept.from * this.last, this.last - 1);
    this.epochs = every.filter((epoch) => epoch >= this.first);
    const edges = curves.flatMap(([, epochs, values, spread = []]) => epochs.flatMap((epoch, k) => {
      const about = spread[k] ?? 0;
      return epoch < this.first ? [] : [values[k] - about, values[k] + about];
    }));
    const [low, high] = edges.length ? [least(edges), -least(edges.map((value) => -value))] : [0, 1];
    const margin = (high - low || 1) * 0.04;
    [this.low, this.high] = [low - margin, high + margin];
  }

  x(epoch) {
    return LEFT + ((epoch - this.first) / (this.last - this.first || 1)) * (this.right - LEFT);
  }

  y(value) {
    return TOP + ((this.high - value) / (this.high - this.low)) * (this.floor - TOP);
  }

  axes() {
    const drawn = make("g", { class: "axes" });
    for (const value of ticks(this.low, this.high, 6)) {
      const [y, text] = [this.y(value), Number(value.toPrecision(6))];
      drawn.append(make("line", { x1: LEFT, x2: this.right, y1: y, y2: y }));
      drawn.append(make("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, text));
    }
    for (const epoch of ticks(this.first, this.last, (this.right - LEFT) / 80).filter(Number.isInteger)) {
      drawn.append(make("text", { x: this.x(epoch), y: this.floor + 18, "text-anchor": "middle" }, epoch));
    }
    return drawn;
  }

  // A line, in a band of its deviations where it is a mean; a dot where it is one value.
  curve(look, epochs, values, spread = []) {
    const group = make("g", { class: look });
    const at = (value, k) => `${this.x(epochs[k]).toFixed(1)} ${this.y(value).toFixed(1)}`;
    if (spread.length) {
      const [up, down] = [1, -1].map((side) => values.map((value, k) => at(value + side * spread[k], k)));
      group.append(make("path", { class: "band", d: `M${[...up, ...down.reverse()].join("L")}Z` }));
    }
    group.append(make("path", { class: "line", d: `M${values.map(at).join("L")}` }));
    if (epochs.length === 1) group.append(make("circle", { r: 3, cx: this.x(epochs[0]), cy: this.y(values[0]) }));
    return group;
  }

  // The cross-hair goes to the epoch nearest to the pointer; the curve is meant that is nearest there.
  hover(event) {
    if (!this.epochs.length) return;
    const box = this.svg.getBoundingClientRect(), [x, y] = [event.clientX - box.x, event.clientY - box.y];
    const away = this.epochs.map((epoch) => Math.abs(this.x(epoch) - x));
    const epoch = this.epochs[away.indexOf(least(away))];
    const gaps = this.drawn.map(({ epochs, values }) => {
      const k = nearest(epochs, epoch);
      return k < 0 ? Infinity : Math.abs(this.y(values[k]) - y);
    });
    const gap = least(gaps);
    point(epoch, gap < NEAR ? this.drawn[gaps.indexOf(gap)].one.id : null, this);
  }

  press(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], last = this.epochs.length - 1;
    if (event.key === "Escape") point(null);
    if (!step || last < 0) return;
    event.preventDefault();
    const now = cursor === null ? last + 1 : this.epochs.findIndex((epoch) => epoch >= cursor);
    point(this.epochs[Math.min(last, Math.max(0, now + step))], null, this);
  }

  // The cross-hair with a dot on each curve, or on the one that is meant; its name, where the pointer is in this chart.
  mark(meant = null, here = false) {
    this.marks.replaceChildren();
    this.tip.hidden = true;
    const brought = this.drawn.filter(({ one }) => one.id === meant);
    this.above.replaceChildren(...brought.map(({ group }) => group.cloneNode(true)));
    this.lines.classList.toggle("dimmed", brought.length > 0);
    if (cursor === null || cursor < this.first) return;
    const x = this.x(cursor);
    this.marks.append(make("line", { x1: x, x2: x, y1: TOP, y2: this.floor }));
    for (const { one, epochs, values } of brought.length ? brought : this.drawn) {
      const k = nearest(epochs, cursor);
      if (k < 0 || epochs[k] < this.first) continue;
      this.marks.append(make("circle", { class: one.look, r: 3.5, cx: this.x(epochs[k]), cy: this.y(values[k]) }));
      if (brought.length && here) this.name(x, this.y(values[k]), `${told(one, this.key, k)}, epoch ${epochs[k]}`, one);
    }
  }

  name(x, y, value, one) {
    this.tip.textContent = `${one.name}: ${value}`;
    this.tip.hidden = false;
    this.tip.classList.toggle("left", x > this.right / 2);
    [this.tip.style.left, this.tip.style.top] = [`${x}px`, `${y}px`];
  }
}

const charts = all("figure[data-curve]").map((figure) => new Chart(figure));

// Puts the cross-hair of all charts at an epoch, or away; `meant`: the curve to bring out.
function point(epoch, meant = null, chart = null) {
  const moved = cursor !== epoch;
  cursor = epoch;
  for (const one of charts) one.mark(meant, one === chart);
  if (moved) read();
}
