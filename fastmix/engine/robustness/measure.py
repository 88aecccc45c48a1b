"""A run's robustness: a pass over the validation data for each test that is missing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastmix import mixers
from fastmix.distributed import rank, total
from fastmix.engine.evaluate import TOP, each_once
from fastmix.engine.robustness import calibrated, corruption_error
from fastmix.engine.robustness.corruptions import CORRUPTIONS, FROST
from fastmix.engine.robustness.network import Network
from fastmix.engine.robustness.protocols import NAMES, PROTOCOLS, Options, Protocol, corruption
from fastmix.engine.task import Task
from fastmix.engine.validation import Subject, chosen, network, opened
from fastmix.pipelines.loader import Loader
from fastmix.runs import run_folder
from fastmix.runs.each_image import EachImage

IMAGENET = 1000  # classes, without which AlexNet's errors are no measure


@dataclass
class Stand:
    """What is measured: a network, and the images that it sees. on: that in the words of robustness_file.ON. told:
    where the weights come from, and on what device they are."""

    seen: Network
    val: Loader
    on: dict
    told: dict


def prepared(subject: Subject, options: Options, kind: str | None = None) -> Stand:
    """Joins the other processes and opens the data.

    kind: "raw" or "ema"; None: the average where there is one. Raises ValueError.
    """
    cfg = subject.cfg
    kind = kind or ("ema" if "ema" in subject.sets else "raw")
    values = chosen(subject, kind)[kind]
    device, val, classes = opened(cfg)
    if options.images is not None and options.images < len(val.rows):
        drawn = np.random.default_rng(options.seed).permutation(val.rows)[: options.images]
        val.rows = np.sort(drawn)
    model = network(cfg, classes, values, subject.checkpoint, val.view.size, device).eval()
    on = {"weights": _weights(model.state_dict()), "data": _data(val), "size": val.view.size}
    on |= {"resize": val.view.resize, "interpolation": val.view.interpolation, "precision": cfg.precision}
    told = {"checkpoint": subject.checkpoint, "ema": kind == "ema", "model": cfg.model.name, "device": device.type}
    task = Task(model, mixers.MIXERS["vanilla"](), cfg).to(device)
    return Stand(Network(model, task, classes), val, on | {"seed": options.seed}, told)


def missing(stand: Stand, options: Options, found: Mapping) -> list[tuple[str, Protocol | None]]:
    """The passes that are to be made, as the first process has it: those of tests, corruption by corruption, that are
    not in `found` with the same settings. The first may be "clean", which has no protocol. Raises ValueError."""
    size, passes = stand.val.view.size, [("clean", None)]
    for name in options.tests:
        if name == "corruptions":
            passes += [(name, corruption(one, stand.seen, options, size)) for one in options.corruptions]
        elif name in PROTOCOLS:
            passes.append((name, PROTOCOLS[name](stand.seen, options, size)))
    wanted = [not _known(name, one, options, found) for name, one in passes]
    device = next(stand.seen.model.parameters()).device
    agreed = total(torch.tensor(wanted, device=device).int() * (rank() == 0)).tolist()
    return [one for one, is_wanted in zip(passes, agreed, strict=True) if is_wanted]


def measure(
    stand: Stand, options: Options, passes: list[tuple[str, Protocol | None]], bar: bool = True
) -> Iterator[tuple[dict, EachImage | None]]:
    """After each pass what it has found, by tests, for `joined`; and, after clean, what the network says of each image.
    The same on every process."""
    for name, protocol in passes:
        began, each = time.perf_counter(), None
        if protocol is None:
            table, valid = each_once(stand.val, lambda images, labels, rows: stand.seen.logits(images, labels), bar)
            z, labels = torch.from_numpy(table[valid]), stand.val.labels[valid]
            each = EachImage(np.flatnonzero(valid), labels, z.argmax(1).numpy())
            new = {"clean": clean(z, torch.from_numpy(labels))}
            if "ece" in options.tests:
                new["ece"] = calibrated.scores(z, torch.from_numpy(labels), options.seed)
        else:
            table, valid = each_once(stand.val, protocol.told, bar)
            new = {name: protocol.settings | protocol.scores(table[valid])}
        seconds = round(time.perf_counter() - began, 3)
        new[name]["seconds"] = {protocol.part: seconds} if protocol and protocol.part else seconds
        yield new, each


def joined(stand: Stand, found: Mapping, new: Mapping) -> dict:
    """What robustness.json holds: `clean`, and of each test what docs/robustness.md says. A new test takes the place of
    the same one in `found`, which was measured on the same stand; a new corruption stands beside the others."""
    tests = {**found, **new}
    if (one := new.get("corruptions")) and (old := found.get("corruptions")):
        gone = {*one["top1"], *(corruption_error.FROSTS if {*one["top1"]} & {*corruption_error.FROSTS} else ())}
        both = {key: {k: v for k, v in old[key].items() if k not in gone} | one[key] for key in ("top1", "seconds")}
        tests["corruptions"] = one | both
    if bad := tests.get("corruptions"):
        top1 = {name: bad["top1"][name] for name in (*CORRUPTIONS, FROST) if name in bad["top1"]}
        whole = bad["constants"] == "imagenet" and stand.seen.classes == IMAGENET
        told = {"constants": bad["constants"], "seconds": bad["seconds"]}
        tests["corruptions"] = told | corruption_error.summary(top1, whole)
    tests = {name: tests[name] for name in ("clean", *NAMES) if name in tests}
    return stand.told | stand.on | tests | {"versions": run_folder.versions()}


def clean(z: Tensor, labels: Tensor) -> dict[str, float]:
    """top1 and top5 (percent), loss and images."""
    hits = z.topk(min(TOP, z.shape[1]), 1).indices == labels[:, None]
    loss = torch.nn.functional.cross_entropy(z.double(), labels)
    share = [100 * float(found.double().mean()) for found in (hits[:, 0], hits.any(1))]
    return {"top1": share[0], "top5": share[1], "loss": float(loss), "images": len(labels)}


def _known(name: str, protocol: Protocol | None, options: Options, found: Mapping) -> bool:
    """Whether a pass has been made."""
    if protocol is None:
        return "clean" in found and ("ece" in found or "ece" not in options.tests)
    there = found.get(name, {})
    same = bool(there) and all(there.get(key) == value for key, value in protocol.settings.items())
    stand_for = (protocol.part, FROST) if protocol.part in corruption_error.FROSTS else (protocol.part,)
    return same and (not protocol.part or any(part in there["top1"] for part in stand_for))


def _weights(values: Mapping[str, Tensor]) -> str:
    """A hash of a network's values, whatever file they come from."""
    summed = hashlib.sha256()
    for name in sorted(values):
        value = values[name].detach().cpu().contiguous()
        summed.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        summed.update(value.reshape(-1).view(torch.uint8).numpy())
    return summed.hexdigest()[:16]


def _data(val: Loader) -> str:
    """A hash of which images are shown, and of their labels and classes; not of their pixels."""
    summed = hashlib.sha256("\n".join(val.class_names).encode("utf-8", "surrogateescape"))
    for column in (val.rows, val.labels):
        summed.update(np.ascontiguousarray(column, np.int64))
    return summed.hexdigest()[:16]
