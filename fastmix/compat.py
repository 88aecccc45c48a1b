"""Lets torchvision, and timm with it, import next to a CPU build of torch. Import this module before either of them.

pip installs the CUDA build of torchvision also where torch is a CPU build. Its compiled operators then cannot load, and
`import torchvision` stops at `operator torchvision::nms does not exist`, because it registers shape rules for two of
them. Declaring those two signatures is enough: models, datasets and transforms need no compiled operator. The box
operators themselves and torchvision's own image decoders stay unavailable, which they report when called.

Nothing is done where torch is a CUDA build, where torchvision is not installed, or where its operators are declared
already or load.
"""

import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import torch


def _operators_load() -> bool:
    """Whether torchvision's operators are there or load; not by importing it, which fails where they do not."""
    if hasattr(torch.ops.torchvision, "nms"):
        return True
    folder = Path(find_spec("torchvision").origin).parent
    library = next((folder / f"_C{s}" for s in EXTENSION_SUFFIXES if (folder / f"_C{s}").is_file()), None)
    if library is None:
        return False
    try:
        torch.ops.load_library(str(library))
    except OSError:
        return False
    return True


def _declare_operators() -> torch.library.Library:
    """The `torchvision` operator namespace with the two signatures; they vanish when the returned object is freed."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # Older versions of torchvision also warn that its image decoders, which are never used here, cannot load.
    warnings.filterwarnings("ignore", message="Failed to load image Python extension", category=UserWarning)
    return library


if torch.version.cuda is None and find_spec("torchvision") is not None and not _operators_load():
    _library = _declare_operators()
