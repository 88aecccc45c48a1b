"""What a captured step does, without a GPU: its work done again, and recorded, operation by operation."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map

import fastmix.batch
from fastmix.batch import Buffers


class Again:
    """In place of SideStream: runs at once, and replays by doing the work again."""

    def __init__(self):
        self.captured = self.replayed = 0

    def run(self, work):
        return work()

    def capture(self, work):
        self.captured += 1
        return lambda: self.replay(work)

    def replay(self, work):
        self.replayed += 1
        return work()


class Record(TorchDispatchMode):
    """Every operation of a work, with its numbers, and its tensors by where they lie or, made meanwhile, by when."""

    def __init__(self, work=None):
        super().__init__()
        self.work = work
        self.calls, self.made, self.kept, self.found, self.known = [], {}, [], set(), 0

    def name(self, value):
        if isinstance(value, torch.ScriptObject):  # a marker of the profiler
            return None
        if not isinstance(value, torch.Tensor):
            return "nan" if value != value else value
        self.kept.append(value)  # its address is given to nothing else
        place = value.untyped_storage().data_ptr()
        where = ("made", self.made[place]) if place in self.made else ("found", place)
        return (*where, value.storage_offset(), tuple(value.shape), value.stride(), value.dtype)

    def note(self, what: str, arguments) -> None:
        found = tree_map(self.name, arguments)
        self.found |= {v.untyped_storage().data_ptr() for v in self.kept[self.known :]}
        self.known = len(self.kept)
        self.calls.append((what, found))

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if str(operation) == "aten.lift_fresh.default" and not args[0].ndim:  # a number of Python becomes a tensor
            self.note(str(operation), args[0].item())
            self._new(args[0])
            return operation(*args)
        self.note(str(operation), (args, kwargs or {}))
        out = operation(*args, **(kwargs or {}))
        tree_map(self._new, out)
        return out

    def _new(self, value):
        if isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() not in self.found:
            self.kept.append(value)
            self.made.setdefault(value.untyped_storage().data_ptr(), len(self.made))


class Recording(Again):
    """Records what each replay does, of each work at most twice; the mix pass, which is no operation of torch, with all
    that it is given.
    """

    def __init__(self):
        super().__init__()
        self.records = []

    def of(self, work) -> list[Record]:
        return [record for record in self.records if record.work is work]

    def replay(self, work):
        if len(self.of(work)) == 2:
            return super().replay(work)
        record, mix, lend = Record(work), fastmix.batch.mix, Buffers.next
        self.records.append(record)

        def lent(*args):  # the CPU's memory for outputs, which is other memory while the record keeps the last
            with _disable_current_modes():
                out = lend(*args)
            record._new(out)
            return out

        def noted(images, plan, *args, erase=None, out=None):
            record.note("mix", [images, plan and vars(plan), args, erase and vars(erase), out])
            return mix(images, plan, *args, erase=erase, out=out)

        with pytest.MonkeyPatch.context() as patch, record:
            patch.setattr(fastmix.batch, "mix", noted)
            patch.setattr(Buffers, "next", lent)
            return super().replay(work)
