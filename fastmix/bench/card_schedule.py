"""What a card consists of: the parts, in their order, their shares of the time, and the commands of each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

METHODS = ("mixup", "cutmix")


@dataclass(frozen=True)
class Part:
    """commands: words after `python -m`, run one after the other; each gets what is left of the part's time.

    minutes: of eight on a GPU, of three on a CPU; with more or less in all, in proportion. proof: its failure is one of
    the whole card. needs: a package without which it is left out.
    """

    name: str
    minutes: float
    commands: tuple[tuple[str, ...], ...]
    proof: bool = False
    needs: str = ""

    @property
    def missing(self) -> bool:
        return bool(self.needs) and find_spec(self.needs) is None


def bench(*words: str, device: str = "") -> tuple[str, ...]:
    return ("fastmix.bench", *words, *(("--device", device) if device else ()))


def parts(device: str) -> list[Part]:
    """The parts on "cuda", or the same ones small on "cpu"."""
    return _on_gpu() if device == "cuda" else _on_cpu()


def _on_gpu() -> list[Part]:
    def on(*words: str) -> tuple[str, ...]:
        return bench(*words, device="cuda")

    step = "step", "--precision", "bf16", "--batch", "256", "--mix"
    loading = "loader", "--only", "fastmix beton, exact", "--modes", "rrc", "--rounds", "3", "--label"
    loaders = tuple(on(*loading, f"{n} threads", "--workers", str(n), "--rows", str(500 * n)) for n in (1, 4, 8, 16))
    return [
        Part("doctor", 0.3, (("fastmix.doctor", "--json"),)),
        Part("proof", 1.0, (on("proof"),), proof=True),
        Part("kernels", 1.0, (on("kernels"),), proof=True),
        Part("rates", 0.1, (on("rates"),)),
        Part("mix", 0.6, (on("mix", "--batch", "256", "--size", "224", "--dtype", "bf16"),)),
        Part("crop", 0.2, (on("crop"),)),
        Part("augment", 0.2, (on("augment"),)),
        Part("plan", 0.3, (on("plan", "--repeats", "5"),)),
        Part("floor", 0.2, (bench("floor", "--models", "resnet50", "--gpu", "a100", "h100", "h200", "b200"),)),
        Part("step", 0.5, (on(*step, *METHODS), on(*step, *METHODS, "--cuda-graph"))),
        Part("step, fused norm", 0.3, (on(*step, METHODS[0], "--fused-norm", "auto"),)),
        Part("step, compiled", 2.0, tuple(on(*step, name, "--compile", "default") for name in METHODS)),
        Part("loader", 0.4, loaders, needs="simplejpeg"),
        Part("quickstart", 0.9, (on("quickstart"),), proof=True, needs="simplejpeg"),
    ]


def _on_cpu() -> list[Part]:
    def on(*words: str) -> tuple[str, ...]:
        return bench(*words, device="cpu")

    few = "--repeats", "2"
    tiny = "--batch", "4", "--size", "32", *few
    step = "step", "--model", "test_resnet", "--precision", "fp32", "--mix", *METHODS
    loading = "loader", "shapes:train?n=100&size=64", "--size", "32", "--batch", "20", "--rows", "100", "--rounds", "1"
    loading += "--only", "fastmix beton, exact", "--modes", "rrc", "--label"
    return [
        Part("doctor", 0.35, (("fastmix.doctor", "--json"),)),
        Part("proof", 0.9, (on("proof", "--steps", "1", "--processes", "2"),), proof=True),
        Part("kernels", 0.3, (on("kernels", "--first", "--processes", "2"),), proof=True),
        Part("rates", 0.05, (on("rates", *few),)),
        Part("mix", 0.12, (on("mix", *tiny, "--dtype", "fp32", "--allocator", "default"),)),
        Part("crop", 0.08, (on("crop", *tiny),)),
        Part("augment", 0.09, (on("augment", *tiny),)),
        Part("plan", 0.08, (on("plan", *tiny, "--only", "cutmix", "fmix", "snapmix"),)),
        Part("floor", 0.08, (bench("floor", "--models", "test_resnet", "--batch", "4", "--size", "32"),)),
        Part("step", 0.13, (on(*step, *tiny),)),
        Part("loader", 0.17, (on(*loading, "2 threads", "--workers", "2"),), needs="simplejpeg"),
        Part("quickstart", 0.65, (on("quickstart"),), proof=True, needs="simplejpeg"),
    ]
