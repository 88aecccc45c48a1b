// The legend of all charts: a button a curve, which hides it, and its values.
const legend = document.getElementById("legend");

function listed() {
  legend.classList.toggle("wider", kept.by === "mean"); // a deviation beside each value
  legend.replaceChildren(...series().filter(matches).map((one) => {
    const item = make("li");
    item.append(entry(one));
    return item;
  }));
}

function entry(one) {
  const button = make("button", { type: "button", "aria-pressed": !kept.hidden.includes(one.id), "data-id": one.id });
  const swatch = make("svg", { class: "swatch", width: 26, height: 10, "aria-hidden": true });
  swatch.append(make("path", { class: one.look, d: "M1 5H25" }));
  button.append(swatch, make("span", { class: "name", title: one.name }, one.name));
  for (const { key } of charts) {
    button.append(make("output", { "data-of": one.id, "data-curve": key, "aria-live": "off" }));
  }
  const others = (ids) => ids.filter((id) => id !== one.id);
  button.addEventListener("click", () => {
    hide(kept.hidden.includes(one.id) ? others(kept.hidden) : [...kept.hidden, one.id]);
  });
  button.addEventListener("dblclick", () => hide(others(series().map(({ id }) => id))));
  button.addEventListener("pointerenter", () => charts.forEach((chart) => chart.mark(one.id)));
  button.addEventListener("pointerleave", () => charts.forEach((chart) => chart.mark()));
  return button;
}

// The values at the cross-hair, or the last ones.
function read() {
  document.getElementById("epoch").textContent = cursor === null ? "last epoch" : `epoch ${cursor}`;
  const found = new Map(series().map((one) => [one.id, one]));
  for (const output of all("output", legend)) {
    const [one, key] = [found.get(output.dataset.of), output.dataset.curve], [epochs] = one[key];
    output.textContent = told(one, key, cursor === null ? epochs.length - 1 : nearest(epochs, cursor));
  }
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
