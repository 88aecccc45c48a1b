"""The page opened in Chromium, without a window: sorted, filtered, pointed at, switched to dark, and loaded again."""

import dataclasses
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from fastmix import config
from fastmix.runs.page.watch import Page
from helpers import browser, made_runs

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not browser.find(), reason="needs Chromium (apt-get install chromium)"),
]
EPOCHS = 8
FACTS = "JSON.parse(document.querySelector('#facts').textContent)"
EVIL = "<script>evil=1</script><img src=x onerror=evil=1>"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page about vanilla and CutMix with two seeds each, and MixUp, of which half is trained."""
    base = tmp_path_factory.mktemp("page")
    common = config.load("cifar10_small", [f"epochs={EPOCHS}"])
    for k, name in enumerate(["vanilla_s0", "vanilla_s1", "cutmix_s0", "cutmix_s1", "mixup_s0"]):
        cfg = dataclasses.replace(common, mix=name[:-3], seed=int(name[-1]))
        done = EPOCHS if k < 4 else EPOCHS // 2
        made_runs.write(base / "runs" / name, cfg, *made_runs.curves(k, done), finished=k < 4)
    page = Page(base / "page.html", below=base / "runs")
    page.look()
    page.write()
    return page


@pytest.fixture
def tab(chromium, page):
    """The page in a tab of its own. Afterwards: nothing was asked for but the page, and nothing was complained of."""
    tab = chromium.tab()
    tab.open(page.out.as_uri())
    yield tab
    quiet(tab)
    tab.close()


def quiet(tab) -> None:
    asked = {found["request"]["url"] for found in tab.events("Network.requestWillBeSent")}
    assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} <= {tab.value("location.href")}
    said = [*tab.events("Runtime.exceptionThrown"), *tab.events("Runtime.consoleAPICalled")]
    assert said + tab.events("Log.entryAdded") == []


def logged(page, kind: str, key: str) -> dict[str, dict[int, float]]:
    """Values by epoch of each run, by its name, straight from the logs."""
    found = {}
    for path in (page.out.parent / "runs").glob("*/log.jsonl"):
        rows = [row for row in map(json.loads, path.read_text().splitlines()) if row["kind"] == kind]
        found[path.parent.name.replace("_", " ")] = {row["epoch"]: row[key] for row in rows}
    return found


def column(tab, table: str, number: int) -> list[str]:
    """The cells of a column, of the rows that show."""
    rows = f"[...document.querySelectorAll('#{table} tbody tr')].filter(row => !row.hidden)"
    return tab.value(f"{rows}.map(row => row.cells[{number}].textContent)")


def legend(tab) -> dict[str, list[str]]:
    """The values of each curve, as they show."""
    entries = "[...document.querySelectorAll('#legend button')]"
    told = "[e.querySelector('.name').textContent, [...e.querySelectorAll('output')].map(o => o.textContent)]"
    return dict(tab.value(f"{entries}.map(e => {told})"))


def pixels(tab) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("RGB"), float)


def colours(shot: np.ndarray) -> int:
    return len(np.unique(shot @ [1, 256, 65536]))


def test_a_click_on_a_head_sorts_and_another_turns_the_order(tab, page):
    last = {name: values[max(values)] for name, values in logged(page, "val", "top1").items()}
    for down, order in ((True, "descending"), (False, "ascending")):
        tab.click("#runs th:nth-child(4) button")
        assert column(tab, "runs", 0) == sorted(last, key=last.get, reverse=down)
        assert tab.value("document.querySelector('#runs th:nth-child(4)').ariaSort") == order
    tab.click("#runs th:nth-child(1) button")
    assert column(tab, "runs", 0) == sorted(last)
    assert tab.value("document.querySelectorAll('#runs [aria-sort]').length") == 1


def test_the_filter_leaves_the_runs_that_have_every_word(tab):
    tab.type("#filter", "s1 CUTMIX")
    assert column(tab, "runs", 0) == list(legend(tab)) == ["cutmix s1"]
    assert column(tab, "methods", 0) == ["cutmix"] and column(tab, "settings", 0) == ["cutmix s1"]
    assert tab.value("document.querySelector('#count').textContent") == "1 of 5 runs"
    tab.type("#filter", "stopped")
    assert column(tab, "runs", 0) == ["mixup s0"]
    tab.type("#filter", "nothing like it")
    assert column(tab, "runs", 0) == column(tab, "methods", 0) == list(legend(tab)) == []


def test_the_legend_has_the_values_of_the_log_at_the_epoch_that_is_pointed_at(tab, page):
    """The epoch nearest to the pointer, of every run that has come so far."""
    top1, loss = logged(page, "val", "top1"), logged(page, "train", "loss")
    box = tab.place("figure[data-curve=top1] svg")
    seen = set()
    for share in (0.3, 0.62, 0.95):
        tab.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        epoch = int(tab.value("document.querySelector('#epoch').textContent").removeprefix("epoch "))
        seen.add(epoch)
        expected = {
            name: [f"{top1[name][epoch]:.2f}", f"{loss[name][epoch]:.4f}"] if epoch in top1[name] else ["–", "–"]
            for name in top1
        }
        assert legend(tab) == expected
    assert len(seen) == 3 and min(seen) <= EPOCHS // 2 < max(seen), "also where one run has not come so far"
    tab.move(2, 2)
    assert legend(tab)["mixup s0"] == [f"{top1['mixup s0'][EPOCHS // 2]:.2f}", f"{loss['mixup s0'][EPOCHS // 2]:.4f}"]


def test_the_tip_names_the_curve_under_the_pointer(tab, page):
    """Where a dot is drawn, the curve through it is meant."""
    box = tab.place("figure[data-curve=loss] svg")
    tab.move(box["x"] + 0.5 * box["width"], box["y"] + box["height"] - 40)
    dot = tab.value("document.querySelector('figure[data-curve=loss] .marks circle').getBoundingClientRect().toJSON()")
    tab.move(dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2)
    tip = tab.value("document.querySelector('figure[data-curve=loss] .tip').textContent")
    name, value, epoch = tip.replace(": ", "|").replace(", epoch ", "|").split("|")
    assert value == f"{logged(page, 'train', 'loss')[name][int(epoch)]:.4f}"
    assert tab.value("document.querySelectorAll('figure[data-curve=loss] .meant .line').length") == 1


def test_the_arrow_keys_move_the_cross_hair(tab, page):
    top1 = logged(page, "val", "top1")
    tab.value("document.querySelector('figure[data-curve=top1] svg').focus()")
    for epoch in (EPOCHS, EPOCHS - 1, EPOCHS - 2):
        tab.key("ArrowLeft")
        assert tab.value("document.querySelector('#epoch').textContent") == f"epoch {epoch}"
        assert legend(tab)["cutmix s0"][0] == f"{top1['cutmix s0'][epoch]:.2f}"
    tab.key("ArrowRight")
    assert tab.value("document.querySelector('#epoch').textContent") == f"epoch {EPOCHS - 1}"
    tab.key("Escape")
    assert tab.value("document.querySelector('#epoch').textContent") == "last epoch"


def test_a_click_in_the_legend_hides_a_curve_and_two_leave_it_alone(tab):
    lines = "document.querySelectorAll('figure[data-curve=top1] .lines .line').length"
    pressed = "[...document.querySelectorAll('#legend [aria-pressed=true] .name')].map(e => e.textContent)"
    whole = tab.value(pressed)
    assert tab.value(lines) == len(whole) == 5
    tab.click("#legend li:nth-child(2) button")
    assert tab.value(pressed) == [whole[0], *whole[2:]] and tab.value(lines) == 4
    tab.click("#legend li:nth-child(2) button")
    assert tab.value(pressed) == whole
    tab.click("#legend li:nth-child(2) button", times=2)
    assert tab.value(pressed) == [whole[1]] and tab.value(lines) == 1
    tab.click("#every")
    assert tab.value(pressed) == whole
    tab.click("#none")
    assert tab.value(lines) == 0


def test_means_over_seeds_are_those_of_numpy(tab, page):
    tab.click("input[name=by][value=mean]")
    top1 = logged(page, "val", "top1")
    for mix in ("vanilla", "cutmix"):
        values = [top1[f"{mix} s{seed}"][EPOCHS] for seed in (0, 1)]
        assert legend(tab)[mix][0] == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    assert legend(tab)["mixup"][0] == f"{top1['mixup s0'][EPOCHS // 2]:.2f}"
    assert tab.value("document.querySelectorAll('figure[data-curve=top1] .band').length") == 2


def test_the_table_of_methods_has_means_and_gains_by_seed_best_first(tab, page):
    top1 = logged(page, "val", "top1")
    last = {mix: np.array([top1[f"{mix} s{seed}"][EPOCHS] for seed in (0, 1)]) for mix in ("vanilla", "cutmix")}
    gained = last["cutmix"] - last["vanilla"]
    expected = {mix: f"{found.mean():.2f} ± {found.std(ddof=1):.2f}" for mix, found in last.items()}
    best = sorted(last, key=lambda mix: -last[mix].mean())
    assert column(tab, "methods", 0) == best and column(tab, "methods", 1) == [expected[mix] for mix in best]
    gains = dict(zip(best, column(tab, "methods", 3), strict=True))
    assert gains == {"vanilla": "–", "cutmix": f"{gained.mean():+.2f} ± {gained.std(ddof=1) / np.sqrt(2):.2f}"}
    tab.click("#methods th:nth-child(2) button")
    assert column(tab, "methods", 0) == best[::-1]
    assert tab.value("document.querySelectorAll('#methods circle').length") == 4


def test_light_and_dark_by_the_system_and_by_the_switch(tab):
    """What is drawn is mostly the ground: bright or dark, and not blank."""
    shots = {}
    for scheme in ("light", "dark"):
        tab.prefer(scheme)
        tab.place("#curves-head")
        shots[scheme] = pixels(tab)
    tab.click("#theme")
    tab.place("#curves-head")
    shots["switched"] = pixels(tab)
    bright = {name: np.median(shot) for name, shot in shots.items()}
    assert bright["light"] > 230 and bright["dark"] < 50 and bright["switched"] > 230, bright
    assert min(map(colours, shots.values())) > 100
    assert tab.value("document.querySelector('#theme').ariaLabel") == "Switch to dark colours"
    tab.click("#theme")
    tab.prefer("light")
    assert np.median(pixels(tab)) < 50, "what was chosen stays"
    tab.value("localStorage.clear()")


SHOWS = "e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())"
COLOURS = """e => {
  let ground = e, style = getComputedStyle(e);
  while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
  const colour = e.namespaceURI.endsWith("svg") ? style.fill : style.color;
  return [e.textContent.slice(0, 40), colour, getComputedStyle(ground).backgroundColor];
}"""
HUE = """k => {
  const e = document.createElement("i");
  e.className = `hue${k}`;
  e.style.color = "var(--hue)";
  document.querySelector("section").append(e);
  return getComputedStyle(e).color;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(tab, scheme):
    """WCAG's contrast: 4.5 for all text that shows, 3 for curves and the frame of the filter."""
    tab.prefer(scheme)
    texts = tab.value(f"[...document.querySelectorAll('body *')].filter({SHOWS}).map({COLOURS})")
    assert len(texts) > 100
    assert [found for found in texts if contrast(*found[1:]) < 4.5] == []
    lines = tab.value(f"[...Array(10).keys()].map({HUE})")
    ground = tab.value("getComputedStyle(document.querySelector('section')).backgroundColor")
    assert [line for line in lines if contrast(line, ground) < 3] == []


def contrast(one: str, other: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio, of two colours as CSS computes them."""

    def luminance(colour: str) -> float:
        values = np.array([float(v) for v in colour.partition("(")[2].rstrip(")").split(",")[:3]]) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_on_a_phone_nothing_is_wider_than_the_screen_but_tables_which_scroll(chromium, page):
    tab = chromium.tab(400, 800)
    tab.open(page.out.as_uri())
    assert tab.value("document.documentElement.scrollWidth") == 400
    assert tab.value("document.querySelector('#runs').closest('.wide').scrollWidth") > 400
    assert colours(pixels(tab)) > 100
    quiet(tab)
    tab.close()


@pytest.fixture
def watched(page):
    """The same page as one that is written again, which is to be told when it was written last."""
    again = Page(page.out.with_name("watched.html"), below=page.below)
    again.look()
    return again


def test_a_page_that_is_loaded_again_is_as_the_reader_left_it(chromium, watched):
    watched.write(every=600)
    tab = chromium.tab(1280, 500)
    tab.open(watched.out.as_uri())
    assert "again every 600 s" in tab.value("document.querySelector('header').textContent")
    tab.click("#runs th:nth-child(4) button")
    tab.click("#legend li:nth-child(1) button")
    tab.click("input[name=by][value=mean]")
    tab.click("#shared summary")
    tab.type("#filter", "s0")
    tab.value("scrollTo(0, 700)")
    told = "[scrollY, document.activeElement.id, document.querySelector('#shared').open]"
    before = [column(tab, "runs", 0), legend(tab), tab.value(told)]
    assert before[2] == [700, "filter", True] and "mixup" in before[1]
    watched.write(every=600)
    tab.value("void location.reload()")
    tab.loaded()
    assert [column(tab, "runs", 0), legend(tab), tab.value(told)] == before
    assert tab.value("document.querySelector('#filter').value") == "s0"
    tab.click("input[name=by][value=run]")
    assert tab.value("document.querySelectorAll('#legend [aria-pressed=false]').length") == 1
    quiet(tab)
    tab.close()


def test_a_page_loads_itself_again_only_while_it_is_written(chromium, watched):
    watched.write(every=1)
    tab = chromium.tab()
    tab.open(watched.out.as_uri())
    tab.loaded()
    watched.write()
    while tab.value(f"{FACTS}.watch"):
        tab.loaded()
    loads = len(tab.events("Page.loadEventFired"))
    time.sleep(1.5)
    tab.value("1")
    assert len(tab.events("Page.loadEventFired")) == loads
    watched.write(every=1)
    tab.open(watched.out.as_uri())
    tab.value(f"history.replaceState({{...history.state, seen: {{written: {FACTS}.written, at: 0}}}}, '')")
    tab.loaded()
    assert "no longer rewritten" in tab.value("document.querySelector('header').textContent")
    loads = len(tab.events("Page.loadEventFired"))
    time.sleep(1.5)
    tab.value("1")
    assert len(tab.events("Page.loadEventFired")) == loads
    quiet(tab)
    tab.close()


def test_what_names_hold_does_not_run(chromium, tmp_path):
    """Nor would a script that came in another way: only the page's own is let in."""
    common = config.load("cifar10_small", ["epochs=2"])
    for seed in (0, 1):
        cfg = dataclasses.replace(common, mix=EVIL, mixers={EVIL: {"alpha": EVIL}}, seed=seed)
        folder = tmp_path / f"<img src=x onerror=evil=1> {seed}"
        made_runs.write(folder, cfg, [50.0, 60.0], [2.0, 1.0], finished=seed == 0)
    (folder / "failed.txt").write_text(f"ValueError: {EVIL}\n")
    page = Page(tmp_path / "page.html", below=tmp_path)
    page.look()
    page.write()
    tab = chromium.tab()
    tab.open(page.out.as_uri())
    assert set(column(tab, "runs", 0)) == {f"{EVIL} s0", f"{EVIL} s1"} == set(legend(tab))
    assert EVIL in tab.value("document.querySelector('.notes').textContent")
    tab.move(640, 450)
    assert tab.value("typeof evil") == "undefined"
    quiet(tab)
    add = "const s = document.createElement('script'); s.textContent = 'evil = 1'; document.body.append(s)"
    tab.value(f"{{ {add} }} document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"evil = 1\">')")
    assert tab.value("typeof evil") == "undefined"
    assert any("Content Security Policy" in found["entry"]["text"] for found in tab.events("Log.entryAdded"))
    tab.close()
