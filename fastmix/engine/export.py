"""The trained weights alone, as a file that timm loads."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from fastmix import files
from fastmix.models.info import KEY, Info


def require(model: nn.Module, name: str) -> None:
    """Raises ValueError where the model's state holds something that a file of weights cannot, before it is trained."""
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.is_complex() or value.is_sparse:
            raise ValueError(f"model {name}: its {key} is no plain tensor, so that its weights cannot be exported")


def save(path: Path, model: nn.Module, info: Info) -> None:
    """Writes the weights in safetensors' format, whole or not at all; tied ones under each of their names.

    In the file's metadata stands what the model is. Raises OSError with the path.
    """
    from safetensors.torch import save as to_bytes

    files.write_bytes(path, to_bytes(dict(_apart(model)), {KEY: info.text}))


def _apart(model: nn.Module):
    """The model's state on the host, contiguous, no two entries with the same memory."""
    seen = set()
    for name, value in model.state_dict().items():
        value = value.detach().cpu().contiguous()
        memory = value.untyped_storage()
        if memory.data_ptr() in seen or memory.nbytes() != value.nbytes:
            value = value.clone()
        seen.add(memory.data_ptr())
        yield name, value
