"""Which memory of the host is page-locked, where there is no CUDA to lock it: asynchronous copies need it."""

from __future__ import annotations

from torch import Tensor
from torch.overrides import TorchFunctionMode


class PageLocked(TorchFunctionMode):
    """Within it torch.empty(..., pin_memory=True), Tensor.pin_memory and Tensor.is_pinned only keep a list.

    As with CUDA, pin_memory() gives page-locked memory itself and of other memory a copy that is made at once.
    """

    def __init__(self):
        super().__init__()
        self.held: dict[int, Tensor] = {}  # by address; kept, so that an address is not given to other memory

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is Tensor.is_pinned:
            return self.locked(args[0])
        if function is Tensor.pin_memory:
            assert not args[0].is_cuda, "pin_memory of a tensor on the GPU"
            return args[0] if self.locked(args[0]) else self.lock(args[0].detach().clone())
        if kwargs.pop("pin_memory", False):
            return self.lock(function(*args, **kwargs))
        return function(*args, **kwargs)

    def lock(self, tensor: Tensor) -> Tensor:
        self.held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def locked(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cpu" and (not tensor.numel() or tensor.untyped_storage().data_ptr() in self.held)
