"""A teacher for the tests: a small timm model whose batch-norm statistics are not those that it started with."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from fastmix import models
from fastmix.config import Model

NAME, CLASSES = "test_resnet", 10


def trained(name: str = NAME, classes: int = CLASSES, seed: int = 3, **args) -> torch.nn.Module:
    """The model, in eval mode, after it has seen some noise and had its classifier's weights enlarged."""
    model = models.build(Model(name, args=args), classes, seed)
    noise = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.get_classifier().weight.mul_(20)
        for _ in range(3):
            model.train()(2 * noise + 0.5)
    return model.eval()


def teacher_file(folder: Path, model: torch.nn.Module) -> str:
    path = folder / "teacher.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return str(path)
