"""A GPU whose memory is the host's: copies to it are real, and made as late as the ordering of streams allows.

For one thread. torch.cuda's streams must be those of streams.py, and Tensor.record_stream must call `record`. What
CUDA's caching allocator does is here too: memory of a tensor that is gone is given, at once, to the next copy of that
size in the stream it was made in, unless another stream is recorded as its user and has not come so far.
"""

from __future__ import annotations

import weakref
from collections import defaultdict

import torch
from torch import Tensor

from gpu import streams
from gpu.page_locked import PageLocked
from gpu.streams import Point, Stream


class LateCopies(PageLocked):
    """Within it `tensor.to("cuda", non_blocking=True)` returns memory that is written later."""

    def __init__(self):
        super().__init__()
        self.free: dict[tuple, list[tuple[Tensor, list[Point]]]] = defaultdict(list)
        self.users: dict[int, list[Stream]] = {}  # by address
        self.reused = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.to and torch.device(args[1]).type == "cuda":
            return self.sent(args[0], bool((kwargs or {}).get("non_blocking")))
        return super().__torch_function__(function, types, args, kwargs)

    def sent(self, source: Tensor, non_blocking: bool) -> Tensor:
        stream = streams.current_stream()
        memory = self.memory(stream, source)
        if not self.locked(source):
            source = source.clone()  # CUDA has read pageable memory when the call returns
        stream.put(lambda: memory.copy_(source))
        if not non_blocking:
            stream.synchronize()
        given = memory.detach()  # another tensor with this memory, whose end is the end of its use
        self.users[given.data_ptr()] = []
        weakref.finalize(given, self.freed, stream, memory)
        return given

    def record(self, tensor: Tensor, stream: Stream) -> None:
        """Tensor.record_stream, which takes torch's own streams only."""
        self.users[tensor.data_ptr()].append(stream)

    def memory(self, stream: Stream, like: Tensor) -> Tensor:
        """For a copy; what is new is zero."""
        kept = self.free[stream, like.shape, like.dtype]
        for k, (memory, points) in enumerate(kept):
            if all(map(streams.reached, points)):
                del kept[k]
                self.reused += 1
                return memory
        return torch.zeros_like(like)

    def freed(self, stream: Stream, memory: Tensor) -> None:
        points = [user.now for user in self.users[memory.data_ptr()]]
        self.free[stream, memory.shape, memory.dtype].append((memory, points))
