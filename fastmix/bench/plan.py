"""python -m fastmix.bench plan: the time to decide how a batch is mixed, method by method, without a model's passes.

What a model would have answered, a gradient or a small map, is made up, with a few salient places an image. The images
are drawings. On a CPU everybody has one thread, and times are CPU time; two peers do the part that takes their code the
time, one image after the other:

- gco-wrapper's alpha-beta swaps find PuzzleMix's masks, from energies that are there as whole numbers. "fastmix" finds
  masks and moves from the same energies; "fastmix, whole plan" also pools the gradient, compares borders and adds up.
- OpenCV's StaticSaliencyFineGrained (opencv-contrib) and its maximum find SaliencyMix's places.

GuidedMixup's "ap" follows a gradient, its "sr" starts from the pixels.

On a GPU some methods decide on the host and some on the device, so a host's clock times both: "ms" until the GPU has
done its part, "ms host" until the host has, where it waits for nothing.

A peer that is not installed, and a method that needs more than that, is left out with a line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module

from fastmix.bench import measure

OPTIONS = {"puzzlemix": {"granularity": "sample"}, "guidedmixup": {"saliency": "ap"}, "fmix": {"bank": 16}}
GRADIENTS = ("puzzlemix", "comixup")  # what their plans are made from; other guided methods: maps
BLOCKS = (2, 4, 8, 16)
CELLS = 7  # a side of a map


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="height and width")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="methods; default: all")
    parser.add_argument("--repeats", type=int, default=10)


def run(args: argparse.Namespace) -> list[dict]:
    """Rows in ms a batch, on a CPU in CPU ms.

    Raises ValueError for a size or a count below 1, an unknown method, or without a GPU.
    """
    from fastmix.mixers import MIXERS, build, nearest

    measure.check(args)
    for name in args.only or ():
        if name not in MIXERS:
            raise ValueError(f"--only: no method {name!r}{nearest(name, MIXERS)}")
    batch, gradient = _batch(args)
    rows = []
    for name in args.only or MIXERS:
        if name in ("vanilla", "choice"):
            continue
        try:
            mixer = build(name, {name: OPTIONS.get(name)})
        except ValueError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        for case, work in _cases(name, mixer, batch, gradient):
            shape = f"{args.batch}x{args.size}x{args.size}x3"
            rows += [
                measure.row("plan", case, provider, shape, "uint8", unit, values, device=args.device)
                for unit, times in _times(work, args).items()
                for provider, values in times.items()
            ]
    return rows


def _times(work: dict[str, Callable], args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Times of each provider, by unit."""
    if args.device == "cpu":
        return {"CPU ms": measure.cpu_milliseconds(work, args.repeats)}
    finished = measure.finished_milliseconds(work, args.repeats)
    return {"ms": finished, "ms host": measure.host_milliseconds(work, args.repeats)}


def _batch(args: argparse.Namespace):
    """Drawings, and a gradient float32 [B,3,H,W], channels-last as a model gives it."""
    import numpy as np
    import torch

    from fastmix.batch import Batch, Buffers
    from fastmix.pipelines.sources.shapes import SHAPES, draw

    rng, n, size = np.random.default_rng(0), args.batch, args.size
    drawings = [draw(rng, list(SHAPES)[k % len(SHAPES)], size) for k in range(min(n, 40))]
    images = torch.from_numpy(np.stack([drawings[k % len(drawings)] for k in range(n)])).to(args.device)
    labels = torch.from_numpy(rng.integers(0, 1000, n)).to(args.device)

    place = torch.linspace(0, 1, size)
    centres, widths = torch.from_numpy(rng.random((2, n, 3, 1))).float(), 0.06 + 0.2 * torch.rand(n, 3, 1)
    across, along = (torch.exp(-(((place - centre) / widths) ** 2)) for centre in centres)
    hills = 0.08 + torch.einsum("bky,bkx->byx", across, along)
    gradient = (torch.randn(n, 3, size, size) * hills[:, None]).contiguous(memory_format=torch.channels_last)
    return Batch(images, labels, rng, buffers=Buffers()), gradient.to(args.device)


def _cases(name: str, mixer, batch, gradient) -> list[tuple[str, dict[str, Callable]]]:
    """What is compared: a name, and who does it."""
    import torch.nn.functional as F

    from fastmix.mixers import build
    from fastmix.mixers.base import Mixer
    from fastmix.mixers.guided import GuidedMixer
    from fastmix.mixers.judged import JudgedMixer

    if name == "puzzlemix":
        return [(f"{name} {b}x{b}", _puzzlemix(mixer, b, batch, gradient)) for b in BLOCKS]
    if name == "saliencymix":
        return [(name, {"fastmix": lambda: mixer.plan(batch), **_opencv(batch)})]
    if name == "guidedmixup":
        own = build(name, {name: {"saliency": "sr"}})
        spectral = {"fastmix": lambda: own.plan(batch, own.guide(None, batch, None))}
        return [(f"{name} ap", {"fastmix": lambda: mixer.plan(batch, gradient)}), (f"{name} sr", spectral)]
    if not isinstance(mixer, GuidedMixer):
        plans = mixer.only_plans or type(mixer).settle is Mixer.settle
        if type(mixer).plan is Mixer.plan or not plans or isinstance(mixer, JudgedMixer):
            return []  # learned, or decided in the pass itself
        return [(name, {"fastmix": lambda: mixer.plan(batch)})]
    guide = gradient
    if name not in GRADIENTS:
        guide = F.adaptive_avg_pool2d(gradient.abs().mean(1), CELLS)
    return [(name, {"fastmix": lambda: mixer.plan(batch, guide)})]


def _puzzlemix(mixer, blocks: int, batch, gradient) -> dict[str, Callable]:
    import numpy as np
    import torch

    from fastmix.kernels.borders import borders
    from fastmix.kernels.gridcut import gridcut
    from fastmix.kernels.mask_energy import mask_energy
    from fastmix.kernels.transport import transport
    from fastmix.mixers.base import cyclic
    from fastmix.mixers.gradient import saliency

    partner = torch.from_numpy(cyclic(batch.rng, len(batch))).to(gradient.device)
    share = torch.from_numpy(batch.rng.random(len(batch), np.float32)).to(gradient.device)
    own = saliency(gradient, (blocks, blocks))
    other = own[partner.long()]
    terms = mask_energy(own, other, share, *borders(batch.images, partner, blocks, mixer.pooling(batch.size)))

    def moved():
        labels, grid = gridcut(*terms).flatten(1), (blocks, blocks)
        transport(own.flatten(1), labels < 2, grid, mixer.t_eps)
        transport(other.flatten(1), labels > 0, grid, mixer.t_eps)

    def whole():
        mixer.blocks = [blocks]
        mixer.plan(batch, gradient)

    work = {"fastmix": moved, "fastmix, masks alone": lambda: gridcut(*terms), "fastmix, whole plan": whole}
    if gradient.is_cuda or not _installed("gco", "gco-wrapper"):
        return work
    gco = import_module("gco")

    label = np.arange(3, dtype=np.int32)
    apart = (label[:, None] - label) ** 2  # times 4; the scale is the authors'
    costs = [np.rint(1000 * blocks**2 * term.numpy()).astype(np.int32) for term in terms]
    samples = list(zip(4 * costs[0].transpose(0, 2, 3, 1).copy(), *costs[1:], strict=True))

    def swaps():
        return [gco.cut_grid_graph(u, apart, d, r, algorithm="swap") for u, d, r in samples]

    return work | {"gco-wrapper, masks alone": swaps}


def _opencv(batch) -> dict[str, Callable]:
    if batch.images.is_cuda or not _installed("cv2.saliency", "opencv-contrib-python-headless"):
        return {}
    cv2 = import_module("cv2")

    saliency, images = cv2.saliency.StaticSaliencyFineGrained_create(), list(batch.images.numpy())
    return {"OpenCV, image by image": lambda: [saliency.computeSaliency(image)[1].argmax() for image in images]}


def _installed(module: str, package: str) -> bool:
    try:
        import_module(module)
    except ModuleNotFoundError:
        print(f"left out: {package} is not installed", file=sys.stderr)
        return False
    return True
