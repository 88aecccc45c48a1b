"""fastmix: a high-throughput trainer for image classifiers with sample mixing.

The public surface. Any method in any loop:

    from fastmix import Method
    method = Method("automix", model, alpha=2.0)         # method.param_groups(), method(images, labels) -> loss,
                                                         # method.after_step()
What it is made of:

    from fastmix import Batch, MIXERS, Targets, mix
    batch = Batch(images, labels, rng)                   # uint8 [B,H,W,3], int64 [B], numpy Generator
    plan = MIXERS["cutmix"](alpha=1.0).plan(batch)       # plan.partner, plan.own, plan.other, one area
    x = mix(images, plan, mean=IMAGENET_MEAN, std=IMAGENET_STD, dtype=torch.bfloat16)
    targets = Targets.of(labels, plan)                   # Targets(labels [B,2], weights [B,2])

Names are imported when first used: `import fastmix` costs nothing, so the commands answer --help at once.
"""

from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

_HOME = {
    "Batch": "fastmix.batch",
    "IMAGENET_MEAN": "fastmix.batch",
    "IMAGENET_STD": "fastmix.batch",
    "MIXERS": "fastmix.mixers",
    "Method": "fastmix.engine.method",
    "Plan": "fastmix.kernels.plan",
    "Targets": "fastmix.targets",
    "mix": "fastmix.kernels.mix",
}
__all__ = sorted(_HOME)

# In a bare checkout `kernels/` and `pipelines/` stand beside this folder; an installed package holds them inside.
_root = Path(__file__).resolve().parent.parent
if (_root / "setup.py").is_file() and (_root / "pipelines").is_dir():
    __path__.append(str(_root))


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fastmix' has no attribute {name!r}")
