"""python -m faults.fuzz N [--seed S] [--only K]: packed files and JPEGs, changed at random, and all that reads them.

The outcome of each of the N changes must be pixels, or an error of one line that names file and row. Anything else is
a failure: another exception, an image of another size than its header says, the end of the process, or no end at all.
They are tried in a process of their own, one after another; a change is a function of the seed and its number, so
`--only K` does it again, with a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import selectors
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

LIMIT = 30.0  # seconds for one change, of which most take some milliseconds
MEMORY = 4 << 30  # bytes that one may ask for
NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
GOOD = ("pixels", "error")


# ---- what is changed ----


def jpegs() -> list[bytes]:
    """JPEGs of all kinds that the readers tell apart."""
    from fastmix.pipelines.jpeg.restarts import insert
    from helpers.conversion import saved, smooth, turned

    pixels = [smooth(40, 56, seed=k) for k in range(6)]
    plain = [saved(pixels[0]), saved(pixels[1], subsampling=0), saved(pixels[2], subsampling=1)]
    plain += [saved(pixels[3][..., 0]), saved(pixels[4], progressive=True), insert(saved(pixels[5]))]
    return [*plain, turned(pixels[0], 6)]


def packed(path: Path) -> bytes:
    """A packed file of all of them that are plain, and of raw pixels; its pages are short."""
    from fastmix.pipelines.packing.format import JPEG, RAW
    from fastmix.pipelines.packing.writer import BetonWriter
    from helpers.conversion import smooth

    images = [(JPEG, 40, 56, data) for data in jpegs()[:6]] + [(RAW, 24, 32, smooth(24, 32).tobytes())] * 3
    with BetonWriter(path, len(images), page_size=1 << 13) as writer:
        for k, image in enumerate(images):
            writer.add(*image, k % 2)
        writer.finish()
        writer.publish(None)
    return path.read_bytes()


def places(kind: str, data: bytes) -> list[tuple[int, int]]:
    """Parts of the data that are equally often changed, whatever their length."""
    if kind == "jpeg":
        scan = data.index(b"\xff\xda")
        frame = next(data.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in data)
        return [(0, scan), (frame, frame + 19), (scan, len(data)), (len(data) - 16, len(data))]
    from helpers.sources import META, RECORD

    records = META + 9 * RECORD.itemsize
    return [(0, 24), (24, 60), (META, records), (META, records), (1 << 13, len(data)), (len(data) - 9 * 24, len(data))]


def changed(kind: str, data: bytes, rng: np.random.Generator) -> bytes:
    """The data with one to four changes."""
    parts = places(kind, data)
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        low, high = parts[rng.integers(len(parts))]
        at = int(rng.integers(low, max(low + 1, min(high, len(out)))))
        way = rng.integers(8)
        if way < 2:
            out[at : at + 1] = bytes([out[min(at, len(out) - 1)] ^ 1 << rng.integers(8)])
        elif way == 2:
            out[at : at + 1] = rng.bytes(1)
        elif way == 3:
            size = int(rng.choice([1, 2, 4, 8]))
            number = NUMBERS[rng.integers(len(NUMBERS))] % 256**size
            out[at : at + size] = number.to_bytes(size, ["little", "big"][rng.integers(2)])
        elif way == 4:
            out[at : at + int(rng.integers(1, 64))] = b""
        elif way == 5:
            out[at:at] = rng.bytes(int(rng.integers(1, 64)))
        elif way == 6:
            start, size = int(rng.integers(len(out))), int(rng.integers(1, 64))
            out[at : at + size] = out[start : start + size]
        elif rng.integers(3) == 0:
            del out[max(at, 1) :]
        if not out:
            break
    return bytes(out)


# ---- what reads it ----


def told(read, path: Path, row: bool = False) -> str:
    """ "pixels" or "error", as `read` ends; an error must be one line with the path, and the row."""
    try:
        read()
    except (ValueError, OSError) as error:
        line = str(error)
        assert "\n" not in line and line.strip(), repr(line)
        assert str(path) in line, f"no path: {line}"
        assert not row or "row " in line, f"no row: {line}"
        return "error"
    return "pixels"


def size_in(data: bytes) -> tuple[int, int]:
    """(height, width) by Pillow, upright."""
    from PIL import Image, ImageOps

    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size[::-1]


def read_beton(path: Path) -> str:
    from fastmix.pipelines.beton import Beton
    from fastmix.pipelines.packing.check import check
    from fastmix.pipelines.packing.format import JPEG
    from fastmix.pipelines.packing.format import Beton as File
    from fastmix.pipelines.view import View

    try:
        with File(path) as file:
            found, n = {}, len(file)
            for row in range(n):
                if file.modes[row] == JPEG:
                    with contextlib.suppress(Exception):
                        found[row] = size_in(file.data(row).tobytes())
            stored = {row: (int(file.heights[row]), int(file.widths[row])) for row in found}
    except (ValueError, OSError):
        return told(lambda: Beton(path, 1, view=View(16), train=False), path)

    def shown(view: View, batch: int = 1, **options) -> None:
        list(Beton(path, batch, view=view, workers=1, **options).epoch(0))

    ways = [told(lambda: check(path, workers=1), path)]
    ways.append(told(lambda: shown(View(16, crop="none"), train=False), path, n > 0))
    ways.append(told(lambda: shown(View(64, crop="centre", resize=64), train=False), path, n > 0))
    ways.append(told(lambda: shown(View(16, decode="fast"), train=True), path, n > 0))
    told(lambda: shown(View(16), 2, train=True, bad="skip"), path)
    if ways[0] == "pixels":
        assert stored == found, f"accepted another size: {stored} for {found}"
    return "pixels" if set(ways) == {"pixels"} else "error"


def read_jpeg(path: Path) -> str:
    from fastmix.pipelines.folder import Folder
    from fastmix.pipelines.jpeg.restarts import insert
    from fastmix.pipelines.packing.images import encode, rgb
    from fastmix.pipelines.view import View

    data = path.read_bytes()
    ways = []
    for view in (View(16, crop="none"), View(16, decode="fast")):
        loader = Folder(path.parent.parent, 1, view=view, train=False, workers=1)
        ways.append(told(lambda by=loader: list(by.epoch(0)), path, True))
    try:
        pixels = rgb(data)
        kept = encode(data, max_resolution=30)
    except ValueError as error:
        assert "\n" not in str(error) and str(error).strip(), repr(str(error))
        ways.append("error")
    else:
        assert pixels.shape[:2] == size_in(data), f"{pixels.shape} for {size_in(data)}"
        assert max(kept.height, kept.width) == min(30, max(pixels.shape[:2]))
        ways.append("pixels")
        marked = insert(data)
        assert marked is None or np.array_equal(rgb(marked), pixels), "restart markers changed the pixels"
    return "pixels" if set(ways) == {"pixels"} else "error"


def tried(seed: int, number: int, folder: Path) -> str:
    """The outcome of one change; raises whatever should not come out."""
    from helpers.conversion import saved, smooth, tree

    rng = np.random.default_rng([seed, number])
    if number % 2:
        data = changed("beton", (folder / "whole.beton").read_bytes(), rng)
        (folder / "x.beton").write_bytes(data)
        return read_beton(folder / "x.beton")
    sources = jpegs()
    data = changed("jpeg", sources[rng.integers(len(sources))], rng)
    tree(folder / "in", {"a/x.jpg": data, "b/y.jpg": saved(smooth())})
    return read_jpeg(folder / "in" / "a" / "x.jpg")


# ---- two processes ----


def child(seed: int) -> None:
    """Tries the numbers that come on stdin; a line for each on stdout."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packed(folder / "whole.beton")
        assert read_beton(folder / "whole.beton") == "pixels"  # and all is compiled
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        print("ready", flush=True)
        for line in sys.stdin:
            try:
                outcome = tried(seed, int(line), folder)
            except Exception:
                traceback.print_exc()
                last = traceback.format_exc().strip().splitlines()[-1]
                outcome = f"CRASH {last}"
            print(outcome.replace("\n", " "), flush=True)


class Child:
    """The process that tries."""

    def __init__(self, seed: int):
        root = Path(__file__).resolve().parent.parent.parent
        paths = os.pathsep.join([str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "faults.fuzz", "--child", "--seed", str(seed)]
        self.said = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.said, text=True)  # fmt: skip
        self.waiting = selectors.DefaultSelector()
        self.waiting.register(self.process.stdout, selectors.EVENT_READ)
        begun = self.answer(300)
        self.said.seek(0)
        assert begun == "ready", f"{begun}: {self.said.read()[-2000:]}"

    def answer(self, limit: float) -> str:
        if not self.waiting.select(limit):
            self.process.kill()
            return f"HANG over {limit:.0f} s"
        line = self.process.stdout.readline().strip()
        return line or f"CRASH exit code {self.process.wait()}"

    def ask(self, number: int) -> str:
        with contextlib.suppress(BrokenPipeError):  # its answer will tell
            self.process.stdin.write(f"{number}\n")
            self.process.stdin.flush()
        return self.answer(LIMIT)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.waiting.close()
        self.said.close()


def fuzz(count: int, seed: int = 0) -> tuple[Counter, dict[int, str]]:
    """How often each outcome came of `count` changes, and those that should not have, by number."""
    counts, failed, by = Counter(), {}, Child(seed)
    try:
        for number in range(count):
            outcome = by.ask(number)
            counts[outcome.split()[0]] += 1
            if outcome not in GOOD:
                failed[number] = outcome
                if by.process.poll() is not None or outcome.startswith("HANG"):
                    by.close()
                    by = Child(seed)
    finally:
        by.close()
    return counts, failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults.fuzz", description=__doc__.split("\n\n")[1])
    parser.add_argument("count", nargs="?", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="K")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.seed)
        return 0
    if args.only is not None:
        with tempfile.TemporaryDirectory() as name:
            packed(Path(name) / "whole.beton")
            print(tried(args.seed, args.only, Path(name)))
        return 0
    counts, failed = fuzz(args.count, args.seed)
    for number, outcome in failed.items():
        print(f"--seed {args.seed} --only {number}: {outcome}")
    print(", ".join(f"{n} {outcome}" for outcome, n in counts.most_common()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
