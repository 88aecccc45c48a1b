"""The training methods, by name, and how a config's row becomes one."""

from __future__ import annotations

import difflib
import inspect
from typing import get_type_hints

from fastmix.mixers.adautomix import AdAutoMix
from fastmix.mixers.alignmix import AlignMix
from fastmix.mixers.attentivemix import AttentiveMix
from fastmix.mixers.automix import AutoMix
from fastmix.mixers.base import Mixer
from fastmix.mixers.choice import Choice
from fastmix.mixers.comixup import CoMixup
from fastmix.mixers.cutmix import CutMix
from fastmix.mixers.decoupledmix import DecoupledMix
from fastmix.mixers.fmix import FMix
from fastmix.mixers.gridmix import GridMix
from fastmix.mixers.gridmix_cells import GridMixCells
from fastmix.mixers.guidedmixup import GuidedMixup
from fastmix.mixers.manifoldmix import ManifoldMix
from fastmix.mixers.mergemix import MergeMix
from fastmix.mixers.mixpro import MixPro
from fastmix.mixers.mixup import MixUp
from fastmix.mixers.puzzlemix import PuzzleMix
from fastmix.mixers.recursivemix import RecursiveMix
from fastmix.mixers.regmixup import RegMixup
from fastmix.mixers.resizemix import ResizeMix
from fastmix.mixers.saliency_grafting import SaliencyGrafting
from fastmix.mixers.saliencymix import SaliencyMix
from fastmix.mixers.samix import SAMix
from fastmix.mixers.smmix import SMMix
from fastmix.mixers.smoothmix import SmoothMix
from fastmix.mixers.snapmix import SnapMix
from fastmix.mixers.sumix import SUMix
from fastmix.mixers.supermix_online import SuperMix
from fastmix.mixers.tlalign import TLAlign
from fastmix.mixers.tokenmix import TokenMix, TokenMixAttention
from fastmix.mixers.transmix import TransMix
from fastmix.mixers.vanilla import Vanilla
from fastmix.ranges import cast

MIXERS: dict[str, type[Mixer]] = {
    "vanilla": Vanilla,
    "mixup": MixUp,
    "cutmix": CutMix,
    "smoothmix": SmoothMix,
    "gridmix": GridMix,
    "gridmix_cells": GridMixCells,
    "fmix": FMix,
    "resizemix": ResizeMix,
    "saliencymix": SaliencyMix,
    "attentivemix": AttentiveMix,
    "grafting": SaliencyGrafting,
    "puzzlemix": PuzzleMix,
    "comixup": CoMixup,
    "supermix": SuperMix,
    "snapmix": SnapMix,
    "guidedmixup": GuidedMixup,
    "regmixup": RegMixup,
    "recursivemix": RecursiveMix,
    "manifoldmix": ManifoldMix,
    "alignmix": AlignMix,
    "automix": AutoMix,
    "samix": SAMix,
    "adautomix": AdAutoMix,
    "tokenmix": TokenMix,
    "tokenmix_attn": TokenMixAttention,
    "smmix": SMMix,
    "mergemix": MergeMix,
    "transmix": TransMix,
    "mixpro": MixPro,
    "tlalign": TLAlign,
    "decoupledmix": DecoupledMix,
    "sumix": SUMix,
    "choice": Choice,
}

FAMILIES: dict[str, tuple[str, ...]] = {
    "from the pixels alone": (
        "vanilla", "mixup", "cutmix", "smoothmix", "gridmix", "gridmix_cells", "fmix", "resizemix", "regmixup",
    ),
    "with the step before": ("recursivemix",),
    "by what is salient": (
        "saliencymix", "attentivemix", "grafting", "puzzlemix", "comixup", "supermix", "snapmix", "guidedmixup",
    ),
    "inside the model": ("manifoldmix", "alignmix"),
    "learned, with the model": ("automix", "samix", "adautomix"),
    "by attention": ("tokenmix", "tokenmix_attn", "smmix", "mergemix", "transmix", "mixpro", "tlalign"),
    "on top of others": ("decoupledmix", "sumix", "choice"),
}  # fmt: skip
"""How the methods choose what is mixed."""


def build(name: str, rows: dict, fidelity: str = "paper", path: str = "mixers") -> Mixer:
    """The mixer of the row `name` of a config's block `mixers:`.

    A row holds the options of a mixer; `mixer:` says which one, where the row has another name; the rows of a choice's
    `of:`, and of the methods that are built on others, also have `prob:`. An example in YAML:

        mixers:
          cutmix: {alpha: 1.0}
          deit: {mixer: choice, of: {mixup: {prob: 0.5, alpha: 0.8}, cutmix: {prob: 0.5, alpha: 1.0}}}

    fidelity openmixup: options that the row does not name are those of a mixer's `openmixup`, where it has them.
    Raises ValueError in one line for a row, mixer, option or value that is not valid; it names the place (`path`), the
    nearest valid name and what there is.
    """
    if name not in rows:
        raise ValueError(f"{path}: no row {name!r}{nearest(name, rows)}")
    options = {} if rows[name] is None else rows[name]
    path = f"{path}.{name}"
    if not isinstance(options, dict):
        raise ValueError(f"{path}: expected options such as {{alpha: 1.0}}, found {options!r}")
    options = dict(options)
    kind = options.pop("mixer", name)
    if not isinstance(kind, str) or kind not in MIXERS:
        raise ValueError(f"{path}: no mixer {kind!r}{nearest(kind, MIXERS)}")
    known = inspect.signature(MIXERS[kind]).parameters
    hints = get_type_hints(MIXERS[kind].__init__)
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"{path}: {kind} has no option {option!r}{nearest(option, known)}")
        if option != "of":
            cast(value, hints[option], path, option)
    if issubclass(MIXERS[kind], Choice):
        options["of"] = children(options.get("of"), fidelity, f"{path}.of")
    if fidelity == "openmixup":
        options = {key: value for key, value in MIXERS[kind].openmixup.items() if key in known} | options
    try:
        return MIXERS[kind](**options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def children(rows: dict | None, fidelity: str, path: str) -> dict[Mixer, float | None]:
    """The mixers of a choice, with their probabilities."""
    if not isinstance(rows, dict) or not rows:
        raise ValueError(f"{path}: expected rows such as {{mixup: {{prob: 0.5}}, cutmix: {{}}}}, found {rows!r}")
    found = {}
    for name, row in rows.items():
        options = dict(row) if isinstance(row, dict) else row
        prob = options.pop("prob", None) if isinstance(options, dict) else None
        found[build(name, {name: options}, fidelity, path)] = prob
    return found


def nearest(name: str, names) -> str:
    """The end of a message about an unknown name: the likeliest intended one, and all there are."""
    close = difflib.get_close_matches(str(name), names, 1)
    guess = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{guess} There is: {', '.join(names) or 'nothing'}"
