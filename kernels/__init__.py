"""The kernels: passes over images and small solvers, each as plain torch, for the CPU (numba) and for GPUs (Triton).

A kernel is a file or a folder that bears its name. In a folder `__init__` holds equation, bytes and launcher,
`reference` the equation in plain torch, `cpu` and `gpu` the two compiled versions, `cases` arguments to compare them
by. What a kernel's module offers to tests and checks:

    the launcher   a function of the kernel's name in KERNELS
    reference      the same in plain torch, with the same arguments
    CASES, DTYPES  arguments to try: case.arguments(dtype), with each dtype
    AOT            builds for the compiler check
    ULPS           units in the last place by which versions may differ; none: they are equal bit for bit

KERNELS is what tests and checks go through; adding a kernel is its file or folder, and a line here.
"""

from importlib import import_module
from types import ModuleType

KERNELS = {
    "mix": "fastmix.kernels.mix",
    "crop": "fastmix.kernels.crop",
    "randaugment": "fastmix.kernels.randaugment",
    "plan_rows": "fastmix.kernels.plan_rows",
    "finegrained": "fastmix.kernels.finegrained",
    "farthest": "fastmix.kernels.farthest",
    "borders": "fastmix.kernels.borders",
    "gradient_pool": "fastmix.kernels.gradient_pool",
    "mask_energy": "fastmix.kernels.mask_energy",
    "gridcut": "fastmix.kernels.gridcut",
    "transport": "fastmix.kernels.transport",
    "comixup": "fastmix.kernels.comixup",
    "mix_logits": "fastmix.kernels.mix_logits",
    "mix_logits_grad": "fastmix.kernels.mix_logits.gradient",
    "sinkhorn": "fastmix.kernels.sinkhorn",
    "norm_act": "fastmix.kernels.norm_act",
    "norm_act_grad": "fastmix.kernels.norm_act.gradient",
}


def kernel(name: str) -> ModuleType:
    """The module of the kernel of that name in KERNELS."""
    return import_module(KERNELS[name])


def check(device) -> None:
    """Raises ValueError where no kernel can be launched on this device: before a run begins, not in a step."""
    from fastmix.kernels._triton import unusable

    if device.type == "cuda" and (why := unusable()):
        raise ValueError(f"the device is cuda, but {why}; or use device=cpu")
