// The page's own controls, and its reload while the runs are watched.
const root = document.documentElement;
const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const THEME = "fastmix-theme"; // kept for all pages, where the browser allows it

function shade(chosen) {
  if (chosen) root.dataset.theme = chosen;
  const now = root.dataset.theme || (dark.matches ? "dark" : "light");
  theme.textContent = now === "dark" ? "Light" : "Dark";
  theme.setAttribute("aria-label", `Switch to ${now === "dark" ? "light" : "dark"} colours`);
  return now;
}

function remembered(value) {
  try {
    if (value) localStorage.setItem(THEME, value);
    return localStorage.getItem(THEME);
  } catch {
    return null;
  }
}

theme.addEventListener("click", () => remembered(shade(shade() === "dark" ? "light" : "dark")));
dark.addEventListener("change", () => shade());
shade(remembered());

const field = document.getElementById("filter");
field.value = kept.filter;
field.addEventListener("input", () => {
  keep({ filter: field.value });
  filter(field.value);
  listed();
  refresh();
});

for (const name of ["by", "from"]) {
  for (const choice of all(`input[name=${name}]`)) {
    choice.checked = choice.value === String(kept[name]);
    choice.addEventListener("change", () => {
      keep({ [name]: name === "from" ? Number(choice.value) : choice.value });
      listed();
      refresh();
    });
  }
}
document.getElementById("every").addEventListener("click", () => hide([]));
document.getElementById("none").addEventListener("click", () => hide(series().map(({ id }) => id)));

filter(field.value);
listed();
refresh();

// A page that is written every so many seconds is loaded as often; one that is no longer written says so and stays.
if (facts.watch) {
  const now = Date.now() / 1000;
  if (kept.seen?.written !== facts.written) keep({ seen: { written: facts.written, at: now } });
  if (now - kept.seen.at > 3 * facts.watch + 30) {
    document.getElementById("watched").textContent = "no longer rewritten";
  } else {
    setTimeout(() => location.reload(), facts.watch * 1000);
  }
  if (kept.focus) document.getElementById(kept.focus)?.focus({ preventScroll: true });
  addEventListener("focusin", (event) => keep({ focus: event.target.id }));
}
