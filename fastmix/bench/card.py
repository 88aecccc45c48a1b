"""python -m fastmix.bench card [--minutes 8] [--out FOLDER]: what a lent or rented GPU should run first.

Proofs come first (a step of every method, every kernel against its reference), then speeds, beside the rate of a copy
and what was predicted, then an accuracy. Each part is a process of its own with a time limit: one that hangs, crashes
or loses the GPU is a line, and the next begins. A part that ends early leaves its time to those after it, and one that
needs more takes up to three times its own, while 60 % is left of theirs. The whole takes no longer than --minutes. No
data and no network are needed.

FOLDER gets rows.csv (the rows of all parts, as they are measured), PART.log for each, and card.md, a screen of it all,
which is written anew after each part: Ctrl-C leaves what is there. Wheels of simplejpeg and turbojpeg in the current
folder are unpacked there and used, for a bare machine without them. The exit code is 1 where a proof failed or did not
end in its time; a speed that is missing is a line.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import zipfile
from pathlib import Path

from fastmix.bench import card_summary, limited, measure
from fastmix.bench.card_schedule import Part, parts

MINUTES = {"cuda": 8.0, "cpu": 3.0}
WHEELS = ("simplejpeg", "turbojpeg")
KEPT = 0.6  # of the time of later parts, whatever an earlier one needs
SLACK = 5.0  # seconds for what comes after the parts
NOTHING = "failed: it said nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, help="in all, at most; 8 on a GPU, 3 on a CPU where it is not given")
    parser.add_argument("--out", metavar="FOLDER", default="card", help="a new folder")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="cpu: the same parts, small")
    parser.add_argument("--dry-run", action="store_true", help="list the parts and their minutes, and end")


def run(args: argparse.Namespace):
    """A row in seconds for each part, and one in `wrong` for each proof. Raises ValueError for bad options."""
    minutes = MINUTES[args.device] if args.minutes is None else args.minutes
    if not minutes > 0:
        raise ValueError(f"--minutes is {minutes}; it must be more than 0")
    schedule = parts(args.device)
    if args.dry_run:
        print(planned(schedule, minutes))
        return
    out = Path(args.out)
    if (out / "rows.csv").exists():
        raise ValueError(f"--out: {out} holds a card already; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    env, deadline, outcomes = environment(out, args.device), time.monotonic() + 60 * minutes - SLACK, {}
    begun = time.monotonic()

    def tell() -> str:
        text = card_summary.text(out / "rows.csv", outcomes, (time.monotonic() - begun) / 60, minutes)
        (out / "card.md").write_text(text, encoding="utf-8")
        return text

    for k, part in enumerate(schedule):
        start = time.monotonic()
        outcome = do(part, limit(schedule[k:], max(0.0, deadline - start)), out, env)
        outcomes[part.name] = outcome, time.monotonic() - start
        print(f"{part.name}: {outcome} ({time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)
        tell()
        what = part.name, "fastmix", args.device, "-"
        yield measure.row("card", *what, "s", [time.monotonic() - start])
        if part.proof:
            yield measure.row("card", *what, "wrong", [float(not outcome.startswith(("ok", "left out")))])
    print(tell())


def limit(schedule: list[Part], left: float) -> float:
    """Seconds that the first of these parts may take, of those that are left for all."""
    share = left * schedule[0].minutes / sum(part.minutes for part in schedule)
    return min(3 * share, left - KEPT * (left - share))


def planned(schedule: list[Part], minutes: float) -> str:
    """A line for each part: its minutes, unless those before it end early, and its commands."""
    whole = sum(part.minutes for part in schedule)
    lines = [f"{minutes:g} minutes at most, in this order; a part that ends early leaves its time to the next:"]
    for part in schedule:
        note = " (a proof)" * part.proof + f" (left out: {part.needs} is not installed)" * part.missing
        lines.append(f"{part.minutes / whole * minutes:5.1f}  {part.name}{note}")
        lines += [f"       python -m {' '.join(map(quoted, words))}" for words in part.commands]
    return "\n".join(lines)


def quoted(word: str) -> str:
    return f'"{word}"' if set(word) & set(" ?&,") else word


def do(part: Part, seconds: float, out: Path, env: dict[str, str]) -> str:
    """Runs a part's commands; in words what came of it."""
    if part.missing and not find_in(env, part.needs):
        return f"left out: {part.needs} is not installed; put its wheel into the current folder"
    end, failures, before = time.monotonic() + seconds, [], len(rows_of(out))
    log = out / f"{part.name.replace(', ', '_')}.log"
    for words in part.commands:
        table = ("--csv", str(out / "rows.csv")) if words[0] == "fastmix.bench" else ()
        found = limited.run([*words, *table], max(0.0, end - time.monotonic()), log, env)
        if found.code is None:
            failures.append(f"stopped at its limit of {seconds:.0f} s")
        elif found.code:
            failures.append(f"failed: {found.tail or NOTHING}")
    proved = [row for row in rows_of(out)[before:] if row["unit"] == "wrong"]
    wrong = list(dict.fromkeys(row["name"] for row in proved if measure.is_wrong(row)))
    if wrong:
        return f"WRONG: {', '.join(wrong)}; see {log.name}"
    if failures:
        return failures[0]
    return f"ok, {len(proved)} right" if proved else "ok"


def rows_of(out: Path) -> list[dict]:
    return card_summary.read(out / "rows.csv")


def environment(out: Path, device: str) -> dict[str, str]:
    """That of the parts: wheels beside the command are unpacked, and a small run on a CPU keeps to one thread."""
    paths = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    for wheel in sorted(path for name in WHEELS for path in Path().glob(f"{name}-*.whl")):
        with zipfile.ZipFile(wheel) as file:
            file.extractall(out / "wheels")
    if (out / "wheels").is_dir():
        paths.append(str((out / "wheels").resolve()))
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return env | {"OMP_NUM_THREADS": "1"} if device == "cpu" else env


def find_in(env: dict[str, str], package: str) -> bool:
    return any(Path(entry, package).exists() for entry in env["PYTHONPATH"].split(os.pathsep))
