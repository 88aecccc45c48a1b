// Tables sorted by a click on a head; one filter for rows, curves and pictures.
const numbers = (cell) => (cell.dataset.value === undefined ? null : Number(cell.dataset.value));

function order(table, column, down) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [row, numbers(row.cells[column]), row.cells[column].textContent.trim()]);
  rows.sort(([, a, s], [, b, t]) => {
    const [none, nor] = [a === null && s === "–", b === null && t === "–"];
    if (none || nor) return none - nor; // where there is no value, at the end either way
    const sign = a !== null && b !== null ? a - b : s.localeCompare(t, "en", { numeric: true });
    return down ? -sign : sign;
  });
  body.append(...rows.map(([row]) => row));
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", down ? "descending" : "ascending");
}

for (const table of all("table[id]")) {
  all("th > button", table.tHead).forEach((button) => {
    const head = button.parentElement;
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const down = before ? before === "ascending" : head.classList.contains("number"); // the best of numbers first
      order(table, head.cellIndex, down);
      keep({ sorted: { ...kept.sorted, [table.id]: [head.cellIndex, down] } });
    });
  });
  const [column, down] = kept.sorted[table.id] || [];
  if (column < table.tHead.rows[0].cells.length) order(table, column, down);
}

// Runs whose row has every word of the filter; a method shows while one of its runs does.
const lines = all("#runs tbody tr").map((row) => [row.dataset.run, row.dataset.words + " " + row.textContent]);
const texts = lines.map(([run, text]) => [run, text.toLowerCase()]);
let shown = new Set();

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  shown = new Set(texts.filter(([, line]) => words.every((word) => line.includes(word))).map(([run]) => run));
  for (const element of all("[data-run]")) element.hidden = !shown.has(element.dataset.run);
  for (const row of all("[data-runs]")) row.hidden = !row.dataset.runs.split(" ").some((run) => shown.has(run));
  const count = `${shown.size} of ${texts.length} runs`;
  document.getElementById("count").textContent = words.length ? count : "";
}

for (const element of all("details[id]")) {
  element.open = kept.open[element.id] ?? element.open;
  element.addEventListener("toggle", () => keep({ open: { ...kept.open, [element.id]: element.open } }));
}
