"""convert --shards, --part and --join: the rows of one file in several, taken up where it was killed, looked over."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from fastmix import convert
from fastmix.pipelines.packing import note, sharding
from fastmix.pipelines.packing.entries import Pixels
from fastmix.pipelines.packing.format import Beton, classes_path
from fastmix.pipelines.packing.layouts import Listing, scan
from helpers.conversion import DAMAGED, fails, saved, smooth, tree, two_classes
from helpers.dying import killed
from helpers.handed_out import tar
from helpers.sources import put


def run(*argv: object) -> None:
    assert convert.main([str(a) for a in argv]) == 0


def refused(capsys: pytest.CaptureFixture, *argv: object) -> str:
    """The one line of a command that fails."""
    capsys.readouterr()
    return fails([*argv], capsys)


def rows(path: Path) -> list[tuple]:
    with Beton(path) as file:
        columns = (file.labels, file.modes, file.heights, file.widths)
        return [
            (*row, file.data(k).tobytes()) for k, row in enumerate(zip(*(c.tolist() for c in columns), strict=True))
        ]


def shards(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f"{out.stem}-*.beton"))


def files_of(folder: Path) -> dict[str, bytes]:
    """All that a conversion wrote; of notes not the key, which holds times."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("x")}
    return {
        name: json.loads(data) | {"key": ""} if name.endswith(".shard.json") else data for name, data in found.items()
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return two_classes(tmp_path_factory.mktemp("in"), 11)


@pytest.mark.parametrize("n", [1, 4, 22])
def test_shards_hold_the_rows_of_one_file(source, tmp_path, n):
    run(source, tmp_path / "one.beton", "--jpeg-share", 0.5)
    run(source, tmp_path / "x.beton", "--jpeg-share", 0.5, "--shards", n, "--verify")
    made = [rows(path) for path in shards(tmp_path / "x.beton")]
    assert list(chain(*made)) == rows(tmp_path / "one.beton")
    assert len(made) == n and {len(m) for m in made} <= {22 // n, -(-22 // n)}
    assert [path.name for path in shards(tmp_path / "x.beton")] == [f"x-{k:05}-of-{n:05}.beton" for k in range(n)]


def test_shuffled_shards_hold_the_same_rows_in_an_order_of_their_seed(source, tmp_path):
    run(source, tmp_path / "one.beton")
    orders = []
    for seed in (0, 0, 1):
        (folder := tmp_path / str(len(orders))).mkdir()
        for part in ("1/2", "2/2"):
            run(source, folder / "x.beton", "--shards", 4, "--part", part, "--shuffle", seed)
        orders.append([row for path in shards(folder / "x.beton") for row in rows(path)])
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(rows(tmp_path / "one.beton"))
    assert orders[0] == orders[1] != orders[2] and orders[0] != rows(tmp_path / "one.beton")


def test_rows_are_cut_evenly():
    for images, n in ((1_281_167, 128), (5, 5), (7, 3)):
        parts = sharding.cut(images, n)
        assert list(chain(*parts)) == list(range(images)) and len(parts) == n
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_size_of_shards_is_that_of_their_sources(source, tmp_path, capsys):
    listing = scan(source)
    total = sum(Path(file).stat().st_size for file in listing.files)
    assert [sharding.wanted(listing, size) for size in (10**9, total, total - 1, -(-total // 3), 1)] == [1, 1, 2, 3, 22]
    images = {f"{c}/{k}.jpg": saved(smooth(seed=k)) for c in "ab" for k in range(4)}
    tree(tmp_path, {"in.tar": tar(images)})
    assert sharding.wanted(scan(tmp_path / "in.tar"), sum(map(len, images.values())) // 2) == 2
    run(source, tmp_path / "x.beton", "--shard-size", "1MB")
    assert shards(tmp_path / "x.beton") == [tmp_path / "x-00000-of-00001.beton"]
    for text in ("5", "1PB", "-1MB", "0GB", "GiB"):
        assert "is no size, such as 1GiB" in refused(capsys, source, tmp_path / "y.beton", f"--shard-size={text}")
    assert [convert._size(text) for text in ("1GiB", "500MB", "1.5k".upper())] == [1 << 30, 500_000_000, 1500]


# ---- on several machines ----


@pytest.fixture
def parts(source, tmp_path):
    """x-*: five shards, written in three parts from two places that hold the same."""
    tree(tmp_path / "elsewhere", {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*.jpg")})
    for i, folder in enumerate((source, tmp_path / "elsewhere", source), 1):
        run(folder, tmp_path / "x.beton", "--shards", 5, "--part", f"{i}/3")
    return tmp_path


def test_parts_are_what_one_machine_writes(source, parts, tmp_path_factory, capsys):
    whole = tmp_path_factory.mktemp("whole")
    run(source, whole / "x.beton", "--shards", 5)
    assert files_of(whole) == files_of(parts)
    capsys.readouterr()
    run("--join", parts / "x-*.beton")
    told = capsys.readouterr().out
    size = sum(path.stat().st_size for path in shards(parts / "x")) / 1e6
    assert f"x-*.beton: all 5 shards of one list, 22 images in 2 classes, {size:.1f} MB" in told
    run("--join", "--verify", parts / "x-*.beton")
    assert "5 files, 22 images, all as they were written; they decode whole" in capsys.readouterr().out


def test_without_shards_each_part_is_one(source, tmp_path):
    run(source, tmp_path / "x.beton", "--part", "2/3")
    assert [path.name for path in shards(tmp_path / "x.beton")] == ["x-00001-of-00003.beton"]


def test_join_refuses_what_is_no_whole_set(source, parts, capsys):
    def told(pattern: str = "x-*.beton") -> str:
        return refused(capsys, "--join", parts / pattern)

    assert "of which 3 are given; missing are 3, 4, counted from 0" in told("x-{00000..00002}-of-00005.beton")
    run(source, parts / "y.beton", "--shards", 2)
    assert "and of another list" in told("[xy]-*.beton")
    third = shards(parts / "x")[2]
    run(source, parts / "q.beton", "--shards", 5, "--quality", 70)
    kept = {path: path.read_bytes() for path in (third, note.note_path(third), classes_path(third))}

    def taken(other: Path) -> None:
        for path in (third, note.note_path(third)):
            path.write_bytes(Path(str(path).replace(str(third), str(other))).read_bytes())

    taken(shards(parts / "q")[2])
    assert "converted with --quality 70, and" in told() and "x-00002-of-00005.beton" in told()
    taken(shards(parts / "x")[1])
    assert "x-00002-of-00005.beton: shard 1, as" in told()
    for path, data in kept.items():
        path.write_bytes(data)
    classes_path(third).write_text('["b", "a"]')
    assert "class 0 is 'b', and 'a' in" in told()
    classes_path(third).write_bytes(kept[classes_path(third)])
    note.note_path(third).write_text("[]")
    assert "x-00002-of-00005.beton.shard.json: not what convert writes" in told()
    note.note_path(third).unlink()
    assert "x-00002-of-00005.beton: no x-00002-of-00005.beton.shard.json beside it" in told()
    third.unlink()
    assert "x-00002-of-00005.beton is missing" in told()


def test_verify_names_the_damaged_shard(parts, capsys):
    third = shards(parts / "x")[2]
    with Beton(third) as file:
        put(third, int(file.offsets[1]) + 50, b"\xff\xff\xff")
    assert "x-00002-of-00005.beton: row 1: " in refused(capsys, "--verify", parts / "x-*.beton")
    run("--join", parts / "x-*.beton")  # reads tables, and no images


# ---- what was killed, and what is there already ----


def test_a_killed_conversion_goes_on_in_its_shards(source, tmp_path, capsys):
    (tmp_path / "whole").mkdir(), (tmp_path / "cut").mkdir()
    run(source, tmp_path / "whole" / "x.beton", "--shards", 3)
    killed(12, source, tmp_path / "cut" / "x.beton", "--shards", 3, "--workers", 1)
    first = shards(tmp_path / "cut" / "x")
    assert [path.name for path in first] == ["x-00000-of-00003.beton"]
    assert (tmp_path / "cut" / "x-00001-of-00003.beton.part.rows").exists()
    before = first[0].stat()
    capsys.readouterr()
    run(source, tmp_path / "cut" / "x.beton", "--shards", 3)
    assert " images had been written by an earlier conversion, and were taken up" in capsys.readouterr().out
    assert first[0].stat().st_ino == before.st_ino and first[0].stat().st_mtime_ns == before.st_mtime_ns
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_what_is_there_and_not_its_own_is_refused_before_anything_is_written(source, tmp_path, capsys):
    (tmp_path / "x-00002-of-00003.beton").write_bytes(b"mine")
    assert "x-00002-of-00003.beton: exists already" in refused(capsys, source, tmp_path / "x.beton", "--shards", 3)
    assert len(shards(tmp_path / "x")) == 1
    run(source, tmp_path / "x.beton", "--shards", 3, "--overwrite")
    assert "exists already" in refused(capsys, source, tmp_path / "x.beton", "--shards", 3, "--recompress")
    run(source, tmp_path / "x.beton", "--shards", 3, "--recompress", "--overwrite")
    whole, last = files_of(tmp_path), shards(tmp_path / "x")[2]
    last.write_bytes(last.read_bytes()[:-8])
    assert "exists already" in refused(capsys, source, tmp_path / "x.beton", "--shards", 3, "--recompress")
    run(source, tmp_path / "x.beton", "--shards", 3, "--recompress", "--overwrite")
    assert files_of(tmp_path) == whole  # also what was cut short
    run(source, tmp_path / "x-00000-of-00003.beton", "--overwrite")
    assert note.load(tmp_path / "x-00000-of-00003.beton") is None  # a whole file is no shard


def test_damaged_images_are_left_out_of_their_shard_alone(tmp_path, capsys):
    images = {f"{'ab'[k // 6]}/{k:02}.jpg": saved(smooth(seed=k)) for k in range(12)}
    folder = tree(tmp_path / "in", images | {"a/05x.jpg": DAMAGED["half.jpg"][0]})
    line = refused(capsys, folder, tmp_path / "x.beton", "--shards", 3)
    assert "1 of 4 images are damaged" in line and "x-00001-of-00003.beton was not written" in line
    run(folder, tmp_path / "x.beton", "--shards", 3, "--skip-bad")  # what was finished stays
    told = capsys.readouterr().out
    assert "12 images in 2 classes" in told and "4 images had been written by an earlier" in told
    assert "1 damaged images left out" in told
    run("--join", tmp_path / "x-*.beton")
    assert "12 images in 2 classes, 1 damaged ones left out" in capsys.readouterr().out
    assert "exists already" in refused(capsys, folder, tmp_path / "x.beton", "--shards", 3)


def test_a_class_is_lost_only_where_all_shards_lost_it(tmp_path, capsys):
    bad = DAMAGED["half.jpg"][0]
    good = {f"a/{k}.jpg": saved(smooth(seed=k)) for k in range(4)}
    folder = tree(tmp_path / "in", good | {"a/4.jpg": bad, "b/0.jpg": bad, "c/0.jpg": saved(smooth())})
    run(folder, tmp_path / "x.beton", "--shards", 2, "--skip-bad")
    assert "all images of these classes were damaged: b\n" in capsys.readouterr().err


def test_more_shards_than_images_and_more_parts_than_shards_are_refused(source, tmp_path, capsys):
    assert "23 shards of 22 images" in refused(capsys, source, tmp_path / "x.beton", "--shards", 23)
    line = refused(capsys, source, tmp_path / "x.beton", "--shards", 2, "--part", "1/3")
    assert "3 parts of 2 shards: give --shards 3 or more" in line
    for text in ("0/3", "4/3", "1", "a/b"):
        assert "is no part I/N" in refused(capsys, source, tmp_path / "x.beton", "--part", text)


def test_the_list_is_known_by_names_and_labels_wherever_it_lies():
    def listed(*files, labels=(0, 1), classes=("a", "b")):
        return sharding._listed(Listing([*files], [*labels], [*classes]))

    here = listed("/here/a/1.jpg", "/here/b/2.jpg")
    assert here == listed("/there/a/1.jpg", "/there/b/2.jpg")
    others = [listed("/here/b/2.jpg", "/here/a/1.jpg"), listed("/here/a/1.jpg", "/here/b/2.jpg", labels=(0, 0))]
    others.append(listed("/here/a/1.jpg", "/here/b/2.jpg", classes=("b", "a")))
    assert len({here, *others}) == 4
    pixels = np.zeros((2, 3, 4, 4), np.uint8)
    files = [Pixels("x.bin", k, pixels) for k in range(2)]
    assert sharding.wanted(Listing(files, [0, 1], None), 48) == 2
