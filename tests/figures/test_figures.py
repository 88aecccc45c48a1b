"""Figures of the logs in results/: what is drawn against numbers computed anew from the lines; layout."""

import csv
import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from fastmix.runs import run_folder
from fastmix.runs.confusion import as_csv
from fastmix.runs.confusion import read as read_confusion
from fastmix.runs.gain_over_vanilla import gains as rows_of
from helpers import ROOT

pytest.importorskip("matplotlib")

from matplotlib.text import Text  # noqa: E402

from fastmix.figures import confusion, cost, gains, learning, robustness  # noqa: E402
from fastmix.figures.groups import Group, grouped  # noqa: E402
from fastmix.figures.labels import spread  # noqa: E402
from fastmix.figures.style import MARKERS, looks, sheet, styled  # noqa: E402

QUARTER, SMALL = ROOT / "results" / "cifar10_quarter", ROOT / "results" / "cifar10_small"
COLUMN = "cifar10/ResNet-18/200ep"


def groups_of(folder: Path) -> list[Group]:
    found = [run_folder.read(path) for path in run_folder.find(folder)]
    return grouped(found, rows_of(found, COLUMN)[0])


@pytest.fixture(scope="module")
def quarter() -> list[Group]:
    """Three seeds of some methods, 25 epochs."""
    return groups_of(QUARTER)


@pytest.fixture(scope="module")
def small() -> list[Group]:
    """13 methods, 150 epochs."""
    return groups_of(SMALL)


@pytest.fixture(autouse=True)
def style():
    with styled():
        yield


def lines(folder: Path) -> dict[str, dict[int, list[dict]]]:
    """The log's lines, by method and seed, read without the package. Folders are METHOD_sSEED."""
    found: dict[str, dict[int, list[dict]]] = defaultdict(dict)
    for path in sorted(folder.glob("*/log.jsonl")):
        mix, _, seed = path.parent.name.rpartition("_s")
        found[mix][int(seed)] = [json.loads(line) for line in path.read_text().splitlines()]
    return found


def val(rows: list[dict]) -> dict[int, float]:
    return {row["epoch"]: row["top1"] for row in rows if row["kind"] == "val"}


def loss(rows: list[dict], every: int) -> dict[int, float]:
    """The mean over all steps of an epoch, then over so many epochs."""
    train = [row for row in rows if row["kind"] == "train"]
    steps = np.diff([0, *(row["step"] for row in train)])
    epochs = np.ceil([row["epoch"] for row in train])
    told = np.array([row["loss"] for row in train])
    means = [np.average(told[epochs == e], weights=steps[epochs == e]) for e in range(1, int(epochs.max()) + 1)]
    parts = [means[k : k + every] for k in range(0, len(means), every)]
    return {min((k + 1) * every, len(means)): float(np.mean(part)) for k, part in enumerate(parts)}


def check_curves(figure, wanted: dict[str, list[dict[int, float]]]) -> None:
    """Lines and bands are means and deviations of these curves, one a seed."""
    (axes,) = figure.axes
    drawn = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert drawn.keys() == wanted.keys()
    bands = iter(axes.collections)
    for name, line in drawn.items():  # in the order in which both were drawn
        epochs = list(wanted[name][0])
        table = np.array([[curve[e] for e in epochs] for curve in wanted[name]])
        np.testing.assert_array_equal(line.get_xdata(), epochs)
        np.testing.assert_allclose(line.get_ydata(), table.mean(0), rtol=1e-12)
        if len(table) > 1:
            (path,) = next(bands).get_paths()
            edges = {(x, round(y, 9)) for x, y in path.vertices.tolist()}
            for sign in (-1, 1):
                edge = table.mean(0) + sign * table.std(0, ddof=1)
                assert {(float(e), round(float(y), 9)) for e, y in zip(epochs, edge, strict=True)} <= edges
    assert next(bands, None) is None


def test_curves_are_the_means_of_the_logs(quarter):
    logs = lines(QUARTER)
    check_curves(
        learning.draw(quarter, "val/top1", ""), {m: [val(s) for s in seeds.values()] for m, seeds in logs.items()}
    )
    check_curves(
        learning.draw(quarter, "train/loss", ""), {m: [loss(s, 1) for s in seeds.values()] for m, seeds in logs.items()}
    )
    assert learning.draw(quarter, "val/ema_top1", "") is None


def test_long_curves_are_means_over_several_epochs_and_say_so(small):
    figure = learning.draw(small, "train/loss", "")
    every = -(-150 // learning.MOST)
    check_curves(figure, {m: [loss(s, every) for s in seeds.values()] for m, seeds in lines(SMALL).items()})
    assert figure.axes[0].get_xlabel() == f"epoch (means of {every})"


def seconds(rows: list[dict]) -> float:
    """The clock begins anew in each part of a run."""
    times = [row["time"] for row in rows]
    return sum(a for a, b in zip(times, [*times[1:], 0.0], strict=True) if b < a)


def test_costs_are_the_clock_and_the_images_of_the_logs(quarter):
    (axes,) = cost.draw(quarter, cost.hours, "").axes
    logs = lines(QUARTER)
    drawn = {box.get_label(): box for box in axes.containers}
    assert drawn.keys() == logs.keys()
    for mix, seeds in logs.items():
        spent = np.array([seconds(rows) / 3600 for rows in seeds.values()])
        top1 = np.array([val(rows)[25] for rows in seeds.values()])
        point, _, bars = drawn[mix].lines
        np.testing.assert_allclose(point.get_xydata(), [[spent.mean(), top1.mean()]], rtol=1e-9)
        if len(seeds) > 1:
            wide, tall = (bar.get_segments()[0] for bar in bars)
            np.testing.assert_allclose(np.diff(wide[:, 0]), 2 * spent.std(ddof=1), rtol=1e-6)
            np.testing.assert_allclose(np.diff(tall[:, 1]), 2 * top1.std(ddof=1), rtol=1e-6)
    assert cost.draw(quarter, cost.images, "") is None, "all saw the same images"
    assert cost.images(quarter[0].runs[0]) == 25 * 5000 / 1e6


def published() -> dict[str, float]:
    with open(ROOT / "configs" / "published.csv", newline="") as file:
        return {
            row[3].lower().rstrip("+"): float(row[5])
            for row in csv.reader(file)
            if "/".join(row[:3]) == COLUMN and row[5]
        }


def test_gains_are_differences_seed_by_seed(quarter):
    (axes,) = gains.draw(quarter).axes
    top1 = {m: {seed: val(rows)[25] for seed, rows in seeds.items()} for m, seeds in lines(QUARTER).items()}
    base = top1.pop("vanilla")
    change = {m: np.array([value - base[seed] for seed, value in seeds.items()]) for m, seeds in top1.items()}
    order = sorted(change, key=lambda mix: change[mix].mean())
    assert [label.get_text() for label in axes.get_yticklabels()] == order
    (box,) = axes.containers
    point, _, (bars,) = box.lines
    np.testing.assert_allclose(point.get_xdata().astype(float), [change[mix].mean() for mix in order], rtol=1e-9)
    errors = [change[m].std(ddof=1) / len(change[m]) ** 0.5 if len(change[m]) > 1 else 0 for m in order]
    np.testing.assert_allclose([np.ptp(bar[:, 0]) / 2 for bar in bars.get_segments()], errors, atol=1e-9)
    theirs = published()
    wanted = {mix: theirs[mix] - theirs["vanilla"] for mix in order if mix in theirs}
    (hollow,) = [line for line in axes.lines if line.get_label().startswith("published")]
    np.testing.assert_allclose(hollow.get_xdata(), list(wanted.values()), rtol=1e-9)
    places = dict(zip(order, axes.get_yticks(), strict=True))
    np.testing.assert_allclose(hollow.get_ydata(), [places[mix] for mix in wanted], rtol=1e-9)
    assert hollow.get_label() == "published†", "they are of another recipe"
    assert "† another recipe or other data" in [text.get_text() for text in axes.figure.texts]


def test_without_vanilla_there_are_no_gains(quarter):
    found = [run for group in quarter if group.row["mix"] != "vanilla" for run in group.runs]
    assert gains.draw(grouped(found, rows_of(found)[0])) is None


def test_a_confusion_is_of_all_seeds_that_have_it(tmp_path, quarter):
    rng = np.random.default_rng(0)
    runs = []
    for seed in range(3):
        shutil.copytree(QUARTER / f"cutmix_s{seed}", folder := tmp_path / f"s{seed}")
        runs.append(run_folder.read(folder))
    counts = rng.integers(0, 50, (2, 4, 4))
    counts[:, 2] = 0  # a class without images
    names = ["a", "b, c", 'd "e"', "f"]
    group = Group(runs, {}, quarter[0].look)
    assert confusion.draw(group) is None
    for run, table in zip(runs, counts, strict=False):
        (run.folder / "confusion.csv").write_text(as_csv(names, table))
        assert read_confusion(run.folder) == (names, table.tolist())
    axes = confusion.draw(group).axes[0]
    total = counts.sum(0).astype(float)
    shares = np.array([[100 * cell / row.sum() if row.sum() else 0 for cell in row] for row in total])
    np.testing.assert_allclose(axes.images[0].get_array(), shares, rtol=1e-12)
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    told = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert told == {(i, j): f"{shares[i, j]:.0f}" for i, j in np.ndindex(4, 4) if round(shares[i, j])}
    (runs[1].folder / "confusion.csv").write_text(as_csv(names[::-1], counts[1]))
    with pytest.raises(ValueError, match="other classes than in"):
        confusion.draw(group)
    for text in (
        "",
        "a,b\n",
        "label, predicted,a,b\na,1,2\n",
        "label, predicted,a\na,x\n",
        "label, predicted,a\na,-1\n",
    ):
        (runs[0].folder / "confusion.csv").write_text(text)
        with pytest.raises(ValueError, match=r"confusion.csv: no table of counts, as fastmix.validate RUN --confusion"):
            confusion.draw(group)


def measured(rng: np.random.Generator, seed: int) -> dict:
    """What fastmix.robustness might have left, with numbers that no other run has."""

    def top1(*shape: int) -> list:
        return rng.uniform(10, 90, shape).tolist()

    images = rng.integers(10, 60, 15)
    images[:4] = 0, 9, 4, 3  # of all three seeds together enough but in the first two; but of one alone in one
    means = [[float(rng.uniform()) if n else None for n in images] for _ in range(2)]
    diagram = dict(zip(DIAGRAM, (images.tolist(), *means), strict=True))
    names = [name for some in robustness.FAMILIES.values() for name in some if name != "frost"]
    return {
        "clean": {"top1": top1(1)[0], "images": 100},
        "ece": {"all": {"ece": 0.1, "nll": 1, "brier": 0.2, "diagram": diagram}},
        "corruptions": {"mean_top1": 1, "top1": {name: top1(5) for name in names[seed:]}},
        "fgsm": {"eps_levels": [*range(9)], "top1": top1(9)},
        "pgd": {"steps": 10, "restarts": 5, "norm": ["linf", "l2", "linf"], "eps": [4.0, 0.5, 1.0], "top1": top1(3)},
        "occlusion": {"dropped": [0.1, 0.5, 0.9], "top1": {kind: top1(3) for kind in robustness.KINDS}},
        "shuffle": {"parts_a_side": [2, 4, 8], "top1": top1(3)},
    }


DIAGRAM = ("images", "confidence", "accuracy")


@pytest.fixture
def robust(tmp_path, quarter) -> tuple[list[Group], dict[str, list[dict]]]:
    """Groups of three runs of cutmix and two of vanilla that were measured, one that was not; and the files."""
    files, found = {"cutmix": [], "vanilla": []}, []
    rng = np.random.default_rng(0)
    for mix, seed in (("cutmix", 0), ("cutmix", 1), ("cutmix", 2), ("vanilla", 0), ("vanilla", 1), ("mixup", 0)):
        shutil.copytree(QUARTER / f"{mix}_s{seed}", folder := tmp_path / f"{mix}{seed}")
        found.append(run_folder.read(folder))
        if mix in files:
            files[mix].append(measured(rng, seed))
            (folder / "robustness.json").write_text(json.dumps(files[mix][-1]))
    return grouped(found, rows_of(found)[0]), files


def test_robustness_is_drawn_as_its_files_say(robust):
    groups, files = robust
    drawn = {name: figure for name, (figure, why) in robustness.draw(groups).items() if not why}

    def check(name: str, of) -> None:
        check_curves(drawn.pop(name), {mix: [of(found) for found in files[mix]] for mix in ("vanilla", "cutmix")})

    def mean(found: dict, names: list[str]) -> dict[int, float]:
        table = np.array([found["corruptions"]["top1"][name] for name in names])
        return {0: found["clean"]["top1"], **{k + 1: float(table[:, k].mean()) for k in range(5)}}

    every = [name for some in robustness.FAMILIES.values() for name in some if name != "frost"][2:]  # that all have
    check("corruptions", lambda found: mean(found, every))
    for family, some in robustness.FAMILIES.items():
        check(f"corruptions_{family}", lambda found, some=some: mean(found, [name for name in some if name in every]))
    check("fgsm", lambda found: dict(enumerate(found["fgsm"]["top1"])))
    clean = {id(found): found["clean"]["top1"] for some in files.values() for found in some}
    pgd = {"linf": ((1.0, 2), (4.0, 0)), "l2": ((0.5, 1),)}
    for norm, balls in pgd.items():
        check(
            f"pgd10x5_{norm}",
            lambda f, balls=balls: {0: clean[id(f)]} | {eps: f["pgd"]["top1"][k] for eps, k in balls},
        )
    for kind in robustness.KINDS:
        check(
            f"occlusion_{kind}",
            lambda f, kind=kind: {0: clean[id(f)]} | dict(zip((10, 50, 90), f["occlusion"]["top1"][kind], strict=True)),
        )
    check("shuffle", lambda f: {0: clean[id(f)]} | dict(zip((1, 2, 3), f["shuffle"]["top1"], strict=True)))
    assert [*drawn] == ["reliability"]


def test_a_reliability_diagram_is_of_all_images_together(robust):
    groups, files = robust
    (axes,) = robustness.draw(groups)["reliability"][0].axes
    for mix in ("vanilla", "cutmix"):
        points = []
        for k in range(15):
            bins = [{key: found["ece"]["all"]["diagram"][key][k] for key in DIAGRAM} for found in files[mix]]
            n = sum(one["images"] for one in bins)
            if n >= 10:
                sums = [sum(one["images"] * one[key] for one in bins) for key in ("confidence", "accuracy")]
                points.append([100 * value / n for value in sums])
        (line,) = [line for line in axes.lines if line.get_label() == mix]
        np.testing.assert_allclose(line.get_xydata(), points, rtol=1e-9)
        assert len(points) == {"vanilla": 12, "cutmix": 13}[mix]
    (diagonal,) = [line for line in axes.lines if line.get_linestyle() == ":" and line.get_color() == "#000000"]
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [100, 100]])


def test_what_was_not_measured_is_told_once_a_test(robust, quarter):
    groups, files = robust
    for group in groups:
        for run, found in zip(group.runs, files.get(group.name, []), strict=False):
            kept = {key: value for key, value in found.items() if key in ("clean", "shuffle")}
            (run.folder / "robustness.json").write_text(json.dumps(kept))
    told = {name: why for name, (figure, why) in robustness.draw(groups).items() if not figure}
    says = "robustness.json has not what it shows (fastmix.robustness RUN --tests {})"
    names = {"reliability": "ece", "corruptions": "corruptions", "fgsm": "fgsm", "occlusion_random": "occlusion"}
    assert told == {name: says.format(test) for name, test in (names | {"pgd": "pgd"}).items()}
    assert robustness.draw(quarter) == {
        "robustness": (None, "no robustness.json in the run folders (fastmix.robustness RUN)")
    }


@pytest.mark.parametrize("k", range(20))
def test_names_are_spread_as_near_as_can_be(k):
    """Against scipy's minimiser, which knows the constraints only."""
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(k)
    n = int(rng.integers(1, 9))
    wanted, sizes = rng.uniform(-10, 60, n), rng.uniform(2, 9, n)
    low, high = 0.0, 1.3 * sizes.sum() + 1
    found = np.array(spread(wanted, sizes, low, high))
    order = np.argsort(wanted, kind="stable")
    step = (sizes[order][1:] + sizes[order][:-1]) / 2
    assert (np.diff(found[order]) >= step - 1e-9).all()
    assert (found - sizes / 2 >= low - 1e-9).all() and (found + sizes / 2 <= high + 1e-9).all()
    bounds = [{"type": "ineq", "fun": lambda x: np.diff(x[order]) - step}] if n > 1 else []
    bounds += [
        {"type": "ineq", "fun": lambda x: x - sizes / 2 - low},
        {"type": "ineq", "fun": lambda x: high - x - sizes / 2},
    ]
    start = np.empty(n)
    start[order] = np.cumsum(sizes[order]) - sizes[order] / 2
    best = optimize.minimize(lambda x: ((x - wanted) ** 2).sum(), start, constraints=bounds, tol=1e-12)
    assert ((found - wanted) ** 2).sum() <= best.fun + 1e-6


def test_looks_differ_without_colour():
    found = looks(["vanilla", *map(str, range(2 * len(MARKERS))), "vanilla"])
    assert len({(str(look.dash), look.marker, look.hollow) for look in found}) == len(found)
    assert {look.colour for look in found if look.marker == "*"} == {"#000000"}
    assert all(a.colour != b.colour and a.dash != b.dash for a, b in zip(found[1:-2], found[2:-1], strict=True))


def long_names(groups: list[Group]) -> list[Group]:
    """As if methods had names of up to 60 letters."""
    tails = ["", " resnet18_quarter_cifar", " alpha=0.2 lr=0.05 weight_decay=0.0005 batch_total=1024", " x" * 20]
    return [
        Group(group.runs, group.row | {"name": group.name + tails[k % 4]}, group.look) for k, group in enumerate(groups)
    ]


@pytest.mark.parametrize("change", [list, long_names])
def test_nothing_is_cut_off_or_covers_another(quarter, small, change):
    for groups in (change(quarter), change(small)):
        figures = [
            learning.draw(groups, "val/top1", "validation top-1 (%)"),
            learning.draw(groups, "train/loss", "training loss"),
        ]
        figures += [cost.draw(groups, cost.hours, "hours"), gains.draw(groups)]
        for figure in figures:
            check_layout(figure)
    check_layout(confusion.picture(np.full((9, 9), 100 / 9), [f"class number {k}" for k in range(9)]))
    check_layout(confusion.picture(np.eye(1000) * 100, [str(k) for k in range(1000)]))


def test_nothing_of_robustness_is_cut_off_or_covers_another(robust):
    for groups in (robust[0], long_names(robust[0])):
        for figure, _ in robustness.draw(groups).values():
            check_layout(figure)


def ticks_beyond(axis) -> list[Text]:
    """Labels that matplotlib has and does not draw."""
    low, high = sorted(axis.get_view_interval())
    return [
        label
        for tick in axis.get_major_ticks()
        if not low <= tick.get_loc() <= high
        for label in tick.get_children()
        if isinstance(label, Text)
    ]


def check_layout(figure) -> None:
    """All text is inside the figure and none covers another; names are outside the axes, where the data are."""
    figure.draw_without_rendering()
    assert figure.get_size_inches()[0] == 3.3
    beyond = {text for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for text in ticks_beyond(axis)}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    texts = [text for text in texts if text not in beyond]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_window_extent().width]
    assert min(text.get_fontsize() for text in texts) >= 7
    wide, tall = figure.bbox.width, figure.bbox.height
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= wide and box.y1 <= tall, text
    for k, (text, box) in enumerate(boxes):
        for other, second in boxes[:k]:
            width = min(box.x1, second.x1) - max(box.x0, second.x0)
            height = min(box.y1, second.y1) - max(box.y0, second.y0)
            assert width <= 1 or height <= 0.2 * min(box.height, second.height), (text, other)
    axes = figure.axes[0]
    inner = axes.get_window_extent()
    assert inner.width > 0.3 * wide and inner.height > 0.3 * tall
    if not axes.images:
        assert [text.get_text() for text in axes.texts if text.get_window_extent().x0 <= inner.x1] == []


def test_the_users_settings_of_matplotlib_do_not_matter():
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "text.usetex": True}), styled():
        assert matplotlib.rcParams["font.size"] < 10 and not matplotlib.rcParams["text.usetex"]
        assert sheet(1).text(0, 0, "x").get_fontsize() < 10
