"""Method: model, mixer and criterion as one module from a batch to its loss, for any training loop.

What the trainer does around a step is here too, in the form that every loop has a place for: parameter groups, a hook
after the optimiser's step, state that a checkpoint keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from fastmix.batch import IMAGENET_MEAN, IMAGENET_STD, Batch, Buffers
from fastmix.config import Optim
from fastmix.distributed import rank
from fastmix.engine import optim
from fastmix.kernels.mix import DTYPES
from fastmix.mixers import build
from fastmix.mixers.base import Mixer
from fastmix.mixers.vanilla import Vanilla
from fastmix.models import own, sites
from fastmix.targets import BinaryCrossEntropy, CrossEntropy, Targets, UserLoss

LOSSES = {"ce": CrossEntropy, "bce": BinaryCrossEntropy}


class Method(nn.Module):
    """A training method around a model that classifies:

        method = Method("automix", model, alpha=2.0)
        opt = torch.optim.SGD(method.param_groups(lr=0.1, weight_decay=1e-4), momentum=0.9)
        for images, labels in loader:
            loss = method(images, labels)
            loss.backward(); opt.step(); opt.zero_grad(); method.after_step()

    mixer        a name of MIXERS, to which the further arguments are options (alpha=2.0), or a Mixer
    model        any nn.Module from float [B,3,H,W] to logits [B, classes]; it stays as it is, as `method.model`
    loss         "ce", "bce" (summed over the classes), or what nn.CrossEntropyLoss is: a function of logits
                 [B, classes] and targets float32 [B, classes] that gives a scalar
    smoothing    of the labels
    classes      how many there are, where it is not the model that says it; only dense targets need it
    image_size   pixels a side of the images of a pass in which a model that is not timm's is looked at, where a method
                 asks for places inside it; none: sizes from 224 to 28 are tried
    rng          a seed, or a numpy or torch generator that gives one. What a step draws is a function of (seed, step,
                 process, forward pass), as in the trainer, and the seed and the step are in the state_dict
    total_steps  optimiser steps of the whole training, for methods with schedules (AutoMix and its like); else
                 `set_progress` tells them, or they stay at the beginning
    mean, std    of pixels in [0,1], by which images are normalised, or, of floats, have been
    dtype        of what the model is given; None: of floats their own, of whole pixels autocast's type where it is on,
                 else that of the model's parameters

    `mixing = False` ends mixing; the mixer's own parameters then have no gradient. In eval mode nothing is mixed.
    Raises ValueError for an unknown mixer or option, and for a model that the method does not work with.
    """

    def __init__(
        self,
        mixer: str | Mixer,
        model: nn.Module,
        *,
        loss: str | Callable[[Tensor, Tensor], Tensor] = "ce",
        smoothing: float = 0.0,
        classes: int | None = None,
        image_size: int | None = None,
        rng: int | np.random.Generator | torch.Generator = 0,
        total_steps: int | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        dtype: torch.dtype | None = None,
        **options,
    ):
        super().__init__()
        mixer = made(mixer, options)
        if image_size and not hasattr(model, "feature_info"):
            own.seen(model, image_size)
        self.seed, self.step, self.passes = seed_of(rng), 0, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            mixer.prepare(model)
        self.model, self.mixer, self.criterion = model, mixer, criterion(loss, smoothing)
        if (device := next((p.device for p in model.parameters()), None)) is not None:
            self.mixer.to(device)
            self.criterion.to(device)
        self.mixing, self.plain, self.last, self.reused = True, Vanilla(), None, Buffers()
        self.mean, self.std, self.dtype, self.total_steps, self._classes = mean, std, dtype, total_steps, classes

    @property
    def active(self) -> Mixer:
        """The mixer, or none of its kind where mixing is off."""
        return self.mixer if self.mixing else self.plain

    @property
    def classes(self) -> int:
        """How many classes the model knows. Raises ValueError where it gives no logits."""
        return self._classes or sites.classes(self.model)

    @torch.compiler.disable  # draws on the host; `compile` compiles the networks
    def forward(self, images: Tensor, labels: Tensor | None = None, rng: np.random.Generator | None = None) -> Tensor:
        """The training loss, a float32 scalar; in eval mode that of the plain model; without labels its logits.

        images [B,H,W,3] or [B,3,H,W], uint8, or of a float type and normalised by mean and std, without a gradient;
        labels int64 [B], or of most methods soft or multi-hot, float [B, classes]; both on the model's device.
        rng: what this pass draws from, in place of the method's own. Raises ValueError for images and labels that are
        no such tensors.
        """
        if labels is None:
            return self.model(self.batch(images).mix())
        batch = self.batch(images, labels, self.drawn(rng))
        with self.noted():
            return self.now(self.model, batch, self.criterion)

    @torch.compiler.disable
    def mix(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        dense: bool = False,
        also: list[Tensor] | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple:
        """(inputs, targets): the model's inputs [B,3,H,W], mixed, for loops that run model and loss themselves.

        Targets are labels int64 [B,M] and weights float32 [B,M]; dense: float32 [B, classes], smoothed, as
        nn.CrossEntropyLoss takes them. also: what belongs to the pixels, such as masks, each float [B,K,H,W]; mixed by
        the same plan it is a third result. Raises ValueError for a method that does more than change the input.
        """
        mixer = self.now
        if not mixer.changes_input_only:
            name = type(mixer).__name__
            raise ValueError(
                f"{name} does more than change the input: call method(images, labels), which gives the loss"
            )
        batch = self.batch(images, labels, self.drawn(rng))
        plan = mixer.decide(self.model, batch, self.criterion)
        plan = None if plan is None else plan.to(images.device)
        self.last = Targets.of(batch.labels, plan)
        targets = self.last.labels, self.last.weights
        if dense:
            classes = batch.labels.shape[1] if batch.labels.is_floating_point() else self.classes
            targets = self.last.dense(classes, self.criterion.smoothing)
        if also is None:
            return batch.mix(plan), targets
        return batch.mix(plan), targets, [batch.mix_also(extra, plan) for extra in also]

    @property
    def now(self) -> Mixer:
        """What mixes in this mode."""
        return self.active if self.training else self.plain

    def drawn(self, rng: np.random.Generator | None) -> np.random.Generator:
        """The generator of the next forward pass, and the progress of schedules."""
        if self.training and self.total_steps and not self.passes:
            self.set_progress(min(self.step / self.total_steps, 1.0))
        self.passes += self.training
        return rng or step_rng(self.seed, self.step, rank(), max(self.passes - 1, 0))

    def batch(self, images: Tensor, labels: Tensor | None = None, rng: np.random.Generator | None = None) -> Batch:
        """The batch as mixers see it."""
        images = channels_last(images)
        if labels is None:
            labels = images.new_zeros(len(images), dtype=torch.int64)
        kind = self.input_type(images)
        return Batch(images, self.checked(labels, images), rng, self.mean, self.std, kind, buffers=self.reused)

    def checked(self, labels: Tensor, images: Tensor) -> Tensor:
        """The labels, int64 [B] or float [B, classes]; raises ValueError for others, and where they cannot be soft."""
        soft = labels.is_floating_point()
        if len(labels) != len(images) or labels.ndim != 1 + soft:
            wanted, found = f"int64 [B] or float [B, classes] for {len(images)} images", list(labels.shape)
            raise ValueError(f"labels must be {wanted}, not {labels.dtype} {found}")
        if soft and not self.now.takes_soft:
            name = type(self.now).__name__
            raise ValueError(f"{name} asks for the class of an image, int64 [B]; labels are {labels.dtype}")
        return labels if soft else labels.long()

    def input_type(self, images: Tensor) -> torch.dtype:
        """Of what the model is given for these images."""
        if self.dtype is not None:
            return self.dtype
        if images.is_floating_point():
            return images.dtype
        if torch.is_autocast_enabled(images.device.type):
            return torch.get_autocast_dtype(images.device.type)
        own = next((p.dtype for p in self.model.parameters()), torch.float32)
        return own if own in DTYPES else torch.float32

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Inside, `last` is what the criterion is given: of several targets the last of a mixture."""
        self.last = None

        def note(_: nn.Module, given: tuple) -> None:
            if self.last is None or given[1].partner is not None:
                self.last = given[1]

        hook = self.criterion.register_forward_pre_hook(note)
        try:
            yield
        finally:
            hook.remove()

    def param_groups(self, lr: float, weight_decay: float = 0.0, no_decay: tuple[str, ...] = ()) -> list[dict]:
        """Groups for a torch optimiser: the model's parameters, then the method's own, with lr and weight_decay.

        no_decay: what is spared, as a config's `optim.no_decay`: "norm", "bias" or patterns of names. Groups of the
        method's own may have another rate, decay or momentum, as their options say.
        """
        rules = Optim(no_decay=list(no_decay))
        groups = optim.param_groups(rules, self.model) + optim.own_groups(rules, self.mixer.param_groups())
        out = []
        for group in groups:
            own = group.get("own_lr", [lr * group.get("lr_scale", 1.0)])[0]
            out.append({"weight_decay": weight_decay, **group, "lr": own})
        return out

    def set_progress(self, t: float) -> None:
        """Tells schedules which share of the training is done, 0 to 1; `total_steps` does it in each step."""
        self.active.set_progress(t)

    def after_step(self) -> None:
        """After each optimiser step: moving averages follow, and the next step draws anew."""
        self.active.after_step(self.model)
        self.step, self.passes = self.step + 1, 0

    def compile(self, *args, **kwargs) -> None:
        """torch.compile of the model and of the method's networks, in place."""
        # Graphs of one class: in train and eval mode, of each site and head. Not in torch.compiler.config before 2.9.
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.skip_nnmodule_hook_guards = False  # the graph of a model of that class without our hooks
        for net in (self.model, *self.mixer.companions()):
            net.compile(*args, **kwargs)

    def get_extra_state(self) -> dict:
        return {"seed": self.seed, "step": self.step}

    def set_extra_state(self, state: dict) -> None:
        self.seed, self.step, self.passes = state["seed"], state["step"], 0


def made(mixer: str | Mixer, options: dict) -> Mixer:
    """The mixer of a name and options; raises ValueError for unknown ones, and for options beside a made mixer."""
    if isinstance(mixer, str):
        return build(mixer, {mixer: options}, path="Method")
    if options:
        raise ValueError(f"Method: {', '.join(options)}: options go with a mixer's name, not with a mixer")
    return mixer


def criterion(loss: str | nn.Module | Callable, smoothing: float) -> nn.Module:
    """What mixers call with logits and Targets. Raises ValueError for an unknown name."""
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"Method: loss is {loss!r}; choose one of {', '.join(LOSSES)}, or give a function")
        return LOSSES[loss](smoothing)
    return loss if isinstance(loss, (CrossEntropy, BinaryCrossEntropy)) else UserLoss(loss, smoothing)


def channels_last(images: Tensor) -> Tensor:
    """Images [B,H,W,3] or [B,3,H,W] as a view [B,H,W,3]; where both fit, floats are the second. Raises ValueError."""
    whole = images.dtype == torch.uint8
    if images.ndim == 4 and (whole or images.dtype in DTYPES):
        last, first = images.shape[3] == 3, images.shape[1] == 3
        if last and (whole or not first):
            return images.detach()
        if first:
            return images.detach().permute(0, 2, 3, 1)
    kinds = "uint8, float32, float16 or bfloat16"
    raise ValueError(f"images must be [B,H,W,3] or [B,3,H,W] of {kinds}, not {images.dtype} {list(images.shape)}")


def seed_of(rng: int | np.random.Generator | torch.Generator) -> int:
    """A seed, or the one that a generator gives next."""
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**63))
    if isinstance(rng, torch.Generator):
        return int(torch.randint(2**63 - 1, (), generator=rng, device=rng.device))
    return int(rng)


def step_rng(seed: int, step: int, rank: int, part: int = 0) -> np.random.Generator:
    """The generator of one optimiser step's part on one process: counter-based, so it needs no history."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, part, rank, step]))
