"""The kinds of files that a model is exported to: each is written with what the model is, and read back to be run.

A network is traced with a batch of two; its first dimension stays free.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastmix.engine import export
from fastmix.models.info import KEY, from_text

Run = Callable[[Tensor], Tensor]

INPUT, OUTPUT = "images", "logits"
TEXTS = (KEY, "input")
"""What a file tells of its model: an Info, and what the graph takes."""
WARNINGS = (  # of torch about itself, which say nothing of the file
    (DeprecationWarning, r"`torch\.jit\.\w+` is deprecated"),
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (UserWarning, "No complete tensor found in the group"),
    (torch.jit.TracerWarning, "Converting a tensor to a Python"),  # other sizes of the batch are tried
)


class Format(NamedTuple):
    """A kind of file.

    suffix    of its name
    packages  that it needs
    graph     whether the file can be run by itself; else it holds weights alone
    write     (model, example, path, told): the model, for inputs like `example` with any number of images, and texts
    read      (path, model) -> what runs the file, and its texts; without a graph the model tells the architecture
    """

    suffix: str
    packages: tuple[str, ...]
    graph: bool
    write: Callable[[nn.Module, Tensor, Path, dict[str, str]], None]
    read: Callable[[Path, nn.Module], tuple[Run, dict[str, str]]]


def quietly(function: Callable) -> Callable:
    """The function without those WARNINGS, and without gradients."""

    def called(*args):
        with warnings.catch_warnings(), torch.no_grad():
            for kind, message in WARNINGS:
                warnings.filterwarnings("ignore", message, kind)
            return function(*args)

    return called


def _write_onnx(model: nn.Module, example: Tensor, path: Path, told: dict[str, str]) -> None:
    names = {"input_names": [INPUT], "output_names": [OUTPUT]}
    program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=_any_batch(), verbose=False, **names)
    program.model.metadata_props.update(told)
    program.save(path, external_data=False)


def _read_onnx(path: Path, model: nn.Module) -> tuple[Run, dict[str, str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return run, session.get_modelmeta().custom_metadata_map


def _write_torchscript(model: nn.Module, example: Tensor, path: Path, told: dict[str, str]) -> None:
    traced = torch.jit.trace(model, (example,), check_trace=False)
    torch.jit.save(traced, str(path), _extra_files=told)


def _read_torchscript(path: Path, model: nn.Module) -> tuple[Run, dict[str, str]]:
    told = dict.fromkeys(TEXTS, "")
    run = torch.jit.load(str(path), map_location="cpu", _extra_files=told)
    return run, {key: text.decode() for key, text in told.items()}


def _write_exported(model: nn.Module, example: Tensor, path: Path, told: dict[str, str]) -> None:
    program = torch.export.export(model, (example,), dynamic_shapes=_any_batch())
    with open(path, "wb") as file:
        torch.export.save(program, file, extra_files=told)


def _read_exported(path: Path, model: nn.Module) -> tuple[Run, dict[str, str]]:
    told = dict.fromkeys(TEXTS, "")
    with open(path, "rb") as file:
        return torch.export.load(file, extra_files=told).module(), told


def _write_safetensors(model: nn.Module, example: Tensor, path: Path, told: dict[str, str]) -> None:
    export.save(path, model, from_text(told[KEY], path))


def _read_safetensors(path: Path, model: nn.Module) -> tuple[Run, dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        values, told = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    other = copy.deepcopy(model)
    for value in other.state_dict().values():
        value.zero_()
    other.load_state_dict(values)
    return other, told


def _any_batch() -> tuple[dict]:
    return ({0: torch.export.Dim("batch")},)


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxruntime", "onnxscript"), True, quietly(_write_onnx), quietly(_read_onnx)),
    "torchscript": Format(".torchscript", (), True, quietly(_write_torchscript), quietly(_read_torchscript)),
    "torch-export": Format(".pt2", (), True, quietly(_write_exported), quietly(_read_exported)),
    "safetensors": Format(".safetensors", (), False, _write_safetensors, quietly(_read_safetensors)),
}
