"""What methods make of a batch, for a contact sheet: masks, what the network is given, and each label's weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from fastmix import mixers
from fastmix.batch import Batch
from fastmix.engine import picture
from fastmix.engine.asked import Network, prepared
from fastmix.engine.method import step_rng
from fastmix.engine.picture import Label
from fastmix.kernels.mix import mix
from fastmix.mixers.base import Mixer
from fastmix.mixers.choice import Choice
from fastmix.mixers.shown import LAMBDA, Shown
from fastmix.models.teacher import Teacher

TRIES = 20  # draws in which one is looked for that mixes, and in which no image meets itself
COLOURS = ((0, 104, 170), (200, 80, 0), (0, 128, 96), (160, 60, 130), (140, 100, 0), (90, 90, 200))


@dataclass
class Scene:
    """What all methods of a sheet are drawn with: the first `drawn` images of a batch, at these lambdas.

    before: the batch of the step before; classes: of the data; untrained: whether what was not trained may be asked.
    """

    batch: Batch
    before: Batch
    criterion: nn.Module
    seed: int
    classes: int
    lams: list[float]
    drawn: int
    untrained: bool = False


@dataclass
class Cell:
    """A sample as one draw mixes it: `pixels` is what the network is given, uint8 [H,W,3].

    upper: the mask, or what stands in its place: an image uint8 [H,W,3], or words. head: what was drawn. sources: the
    images that have a part in it, from B on those of the step before. labels: of the mixture.
    """

    head: str
    upper: np.ndarray | str
    pixels: np.ndarray
    sources: list[int]
    labels: list[Label]
    note: str = ""


@dataclass
class Block:
    """A method: rows of cells, one for each image that is drawn; or the reason why there are none."""

    name: str
    family: str
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""
    reason: str = ""


class FixedLambda:
    """A generator whose Beta draws of one lambda are the number asked for (None: none is); all else is by chance.

    This is the one place where a picture's lambda is chosen: methods draw it as in training. A law is lambda's if it is
    the first Beta law of the batch, or symmetric. first: what was drawn first, whatever it is; fixed: whether a lambda
    was asked for, and given.
    """

    def __init__(self, rng: np.random.Generator, lam: float | None):
        self.rng, self.lam = rng, lam
        self.first: np.ndarray | None = None
        self.fixed = self.asked = False

    def beta(self, a: float, b: float, size=None):
        drawn = self.rng.beta(a, b, size)
        if self.lam is not None and (a == b or not self.asked):
            drawn, self.fixed = np.full_like(drawn, self.lam) if size is not None else self.lam, True
        self.asked = True
        return self._noted(drawn)

    def __getattr__(self, name: str):
        draw = getattr(self.rng, name)
        return lambda *args, **options: self._noted(draw(*args, **options))

    def _noted(self, drawn):
        if self.first is None:
            self.first = np.atleast_1d(drawn)
        return drawn


def block(name: str, rows: dict, fidelity: str, networks: list[Network], scene: Scene) -> Block:
    """The block of a row of a config's `mixers`.

    networks: whom methods ask; the first that it works with is taken, before all the one that it was trained with. A
    method that cannot be drawn has a reason. Raises ValueError for an unknown name.
    """
    row = rows.get(name) or {}
    kind = row.get("mixer", name) if isinstance(row, dict) else name
    if name not in rows or not isinstance(kind, str) or kind not in mixers.MIXERS:
        mixers.build(name, rows, fidelity)  # raises, and says what there is
    family = next((text for text, members in mixers.FAMILIES.items() if kind in members), "")
    reasons = []
    for network in sorted(networks, key=lambda network: network.row != name) or [None]:
        own = network is not None and network.row == name and network.options is not None
        nobody = _Nobody(f"{name} asks a model: give --weights RUN or FILE, or --model NAME --untrained")
        try:
            mixer = mixers.build(name, {name: network.options} if own else rows, fidelity)
            return Block(name, family, *_drawn(name, mixer, network, nobody, scene))
        except ValueError as error:
            reasons.append(nobody.question if nobody.asked else str(error))
    return Block(name, family, reason=reasons[0])


def _drawn(
    name: str, mixer: Mixer, network: Network | None, nobody: _Nobody, scene: Scene
) -> tuple[list[list[Cell]], str]:
    """The rows of cells of a method, and what is to be said of it. Raises ValueError where it cannot be drawn."""
    notes = []
    if network is None:
        model = nobody
        mixer.prepare(model)
    else:
        model = network.model
        notes.append(prepared(mixer, name, network, scene.classes, scene.untrained))
    for module in mixer.modules():
        if isinstance(module, Mixer) and module.looks_back:
            with torch.no_grad():
                module(model, replace(scene.before, rng=step_rng(scene.seed, 0, 0)), scene.criterion)
            module.after_step(model)
        if isinstance(teacher := getattr(module, "teacher", None), Teacher):
            notes.append(f"teacher {teacher.name}")
    with _Watched(model) as watched:
        columns = list(draws(mixer, model, scene))
    if watched.asked:
        notes.append(f"asks {network.text}")
    told = {shown.note for _, shown in columns}
    notes += [*told, *(f"beside: {shown.beside}" for _, shown in columns[:1] if shown.beside)] if len(told) == 1 else []
    cells = [cells_of(mixer, scene, rng, shown, shown.note * (len(told) > 1)) for rng, shown in columns]
    return [*map(list, zip(*cells, strict=True))], "; ".join(filter(None, notes))


def draws(mixer: Mixer, model: nn.Module, scene: Scene) -> Iterator[tuple[FixedLambda, Shown]]:
    """The mixtures of each column, and the generators that they were drawn by.

    With a lambda for each column all else is drawn alike in all. Without one each column is a draw of its own that
    differs from the one before. Draws are passed over that do not mix, or in which a drawn image meets itself.
    """
    lams = scene.lams if mixer.drawn == LAMBDA else [None] * len(scene.lams)
    several = isinstance(mixer, Choice) and len(mixer.mixers) > 1
    part, last = 0, None
    for lam in lams:
        for at in [*range(part, part + TRIES * (len(scene.batch) > 1)), part]:
            rng = FixedLambda(step_rng(scene.seed, 0, 0, at), lam)
            shown = mixer.shown(model, replace(scene.batch, rng=rng), scene.criterion)
            if rng.first is None or meets(shown, scene.drawn):
                break
        if rng.fixed or last is None or not torch.equal(last, shown.images):
            yield rng, shown
        last = shown.images.clone()
        part = at + (several or not rng.fixed)


def meets(shown: Shown, drawn: int) -> bool:
    """Whether each of the first `drawn` images is mixed with another one."""
    partner = shown.targets.partner
    return partner is not None and bool((partner[:drawn].cpu() != torch.arange(drawn)).all())


def cells_of(mixer: Mixer, scene: Scene, rng: FixedLambda, shown: Shown, note: str) -> list[Cell]:
    """A cell for each image that is drawn of a mixture."""
    batch = scene.batch
    pixels = picture.unnormalise(shown.images[: scene.drawn], batch.mean, batch.std)
    labels, clean = picture.labels_of(shown), batch.pixels.cpu().numpy()
    weights = whole(shown, batch)[: scene.drawn].cpu().numpy()
    numbers = torch.cat([batch.labels, scene.before.labels]).tolist()
    found = []
    for i, mask in enumerate(masks_of(weights)):
        sources = {*np.flatnonzero(weights[i].max((1, 2))).tolist()}
        named = [label if label.source is not None else _traced(label, sources, numbers) for label in labels[i]]
        sources |= {label.source for label in named if label.source is not None}
        upper = f"mixed: {shown.inside}" if shown.inside else clean[i] if shown.beside else mask
        found.append(Cell(head_of(mixer, rng, i), upper, pixels[i], sorted(sources), named, note))
    return found


def _traced(label: Label, sources: set[int], numbers: list[int]) -> Label:
    """The label of a class with the image that it is of, if only one of the sources is of that class."""
    of = [k for k in sources if numbers[k] == label.number]
    return label._replace(source=of[0]) if len(of) == 1 else label


def head_of(mixer: Mixer, rng: FixedLambda, i: int) -> str:
    """What was drawn for sample i, in words: lambda, or what the method draws in its place."""
    if rng.fixed:
        return f"{LAMBDA} {rng.lam:g}"
    if not mixer.drawn or mixer.drawn == LAMBDA or rng.first is None:
        return ""
    value = rng.first[i % len(rng.first)]
    return f"{mixer.drawn} {value:.2f}" if isinstance(value, np.floating) else f"{mixer.drawn} {value}"


def masks_of(weights: np.ndarray) -> np.ndarray:
    """Where images are seen in mixtures, uint8 [n,H,W,3], from how much of each is in each pixel, [n,N,H,W].

    White the image itself, black its partner; of three and more images each has its colour, but for the own.
    """
    colours = np.zeros((*weights.shape[:2], 3))
    for i, parts in enumerate(weights):
        seen = [k for k in np.flatnonzero(parts.max((1, 2))) if k != i]
        for k in seen if len(seen) > 1 else []:
            colours[i, k] = colour_of(k)
        colours[i, i] = picture.WHITE
    return np.rint(np.einsum("ikhw,ikc->ihwc", weights, colours)).clip(0, 255).astype(np.uint8)


def colour_of(image: int) -> tuple[int, int, int]:
    return COLOURS[image % len(COLOURS)]


def letter_of(image: int) -> str:
    """A, B, ... Z, A2, B2, ...: the name of an image in the picture."""
    turn = image // 26
    return chr(ord("A") + image % 26) + (str(turn + 1) if turn else "")


def whole(shown: Shown, batch: Batch) -> Tensor:
    """How much of each image is in each pixel, float32 [B,N,H,W]; those from B on are of the step before."""
    n = len(batch)
    if shown.shares is None:
        if shown.plan is None:
            return torch.eye(n, device=shown.images.device)[:, :, None, None].expand(-1, -1, *batch.size)
        return provenance(shown.plan, batch.size)
    count = max(n, int(shown.sources.max()) + 1)
    full = torch.zeros(n, count, *batch.size, device=shown.shares.device)
    places = shown.sources[:, :, None, None].expand(shown.shares.shape)
    return full.scatter_add_(1, places, shown.shares.float())


def provenance(plan, size: tuple[int, int]) -> Tensor:
    """How much of image k is in each pixel of sample i, read back from mixed batches. float32 [B,B,H,W], [i,k]

    The pass that trains mixes a batch in which image k is white and the others are black.
    """
    number = torch.arange(len(plan), device=plan.table.device)
    seen = []
    for k in range(len(plan)):
        white = (255 * (number == k)).byte()[:, None, None, None].expand(-1, *size, 3)
        seen.append(mix(white, plan, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))[:, 0])
    return torch.stack(seen, 1)


class _Nobody:
    """Stands where there is no model: whoever asks it is told what to give."""

    def __init__(self, question: str):
        self.question, self.asked = question, False

    def __getattr__(self, name: str):
        self.asked = True
        raise ValueError(self.question)

    def __call__(self, *given):
        return self.forward(*given)


class _Watched:
    """Inside it is seen whether a network is `asked`: whether any of its modules runs."""

    def __init__(self, model):
        self.modules = {*model.modules()} if isinstance(model, nn.Module) else set()
        self.asked = False

    def __enter__(self):
        self.hook = nn.modules.module.register_module_forward_pre_hook(self._seen)
        return self

    def __exit__(self, *error):
        self.hook.remove()

    def _seen(self, module: nn.Module, given: tuple) -> None:
        self.asked = self.asked or module in self.modules
