"""DALI's graph for a view: encoded images and windows in, crops out.

    data, raw, anchor, extent -> decoders.image_slice (raw pixels: slice) -> resize of the window, x swapped to mirror

Little more is decoded than the filter sees. It is the filter of resize.py but for the edges of what it may see: there
DALI repeats the last pixel, where resize.py renormalises the weights. Elsewhere the two are within one level.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from fastmix.pipelines.chunk import Chunk
from fastmix.pipelines.resize import sees
from fastmix.pipelines.view import View


class Graph:
    """DALI's pipeline for a view: batches in, uint8 [n,S,S,3] out, in the same order.

    device   of nvJPEG and of what comes out; None: the CPU
    """

    def __init__(self, view: View, batch: int, threads: int, device: torch.device | None):
        from nvidia.dali import pipeline_def

        self.view = view
        self.device = device or torch.device("cpu")
        card = None if device is None else torch.cuda.current_device() if device.index is None else device.index
        # With a deeper queue the first schedule_run would want so many batches at once. Ours limits what is in work.
        make = pipeline_def(enable_conditionals=True, exec_dynamic=True, prefetch_queue_depth=1)(_define)
        self.pipeline = make(view, card is not None, batch_size=batch, num_threads=threads, device_id=card)

    def start(self, chunk: Chunk) -> None:
        """Starts a batch, whose data must stay where it is until it is taken."""
        if len(chunk.rows):
            for name, values in inputs(chunk, self.view).items():
                self.pipeline.feed_input(name, values)
            self.pipeline.schedule_run()

    def take(self, chunk: Chunk) -> Tensor:
        """The images of the oldest batch started, which was this one. They own their memory, and are complete.

        Raises RuntimeError, for the whole batch, where DALI cannot decode one of them.
        """
        if not len(chunk.rows):
            return torch.zeros(0, self.view.size, self.view.size, 3, dtype=torch.uint8, device=self.device)
        (images,) = self.pipeline.share_outputs()
        self.pipeline.release_outputs()
        return torch.from_dlpack(images.as_tensor())


def inputs(chunk: Chunk, view: View) -> dict[str, ndarray | list[ndarray]]:
    """What the graph is fed for a chunk of n images, by the names of its sources; the pairs are y, x.

    data     n times uint8   a JPEG's bytes, or pixels
    raw      bool [n]        pixels
    shape    int32 [n,3]     of the stored image
    anchor, extent  int32 [n,2]  the part of it that is decoded, in pixels
    start, end  float32 [n,2]  the window within that part, x swapped for a mirror image; all crops but "pad"
    offset   int32 [n,2]     the window within that part, or around it, counted from the border where that is mirrored,
    mirror   int32 [n]       and its flip; crop "pad"
    """
    sides = np.stack([chunk.heights, chunk.widths], 1)
    mirrored = sides if view.reflects else np.zeros_like(sides)
    how = view.size, view.interpolation, view.whole
    seen = np.array([sees(w, *how, (h, b)) for w, (h, b) in zip(chunk.windows, mirrored.tolist(), strict=True)])
    low = np.clip(seen[:, :2], 0, sides - 1)
    high = np.clip(seen[:, 2:], low + 1, sides)
    start = chunk.windows[:, :2] - low
    fed = {
        "data": chunk.data,
        "raw": chunk.raw,
        "shape": np.insert(sides, 2, 3, 1).astype(np.int32),
        "anchor": low.astype(np.int32),
        "extent": (high - low).astype(np.int32),
    }
    if view.crop == "pad":
        start += view.pad * view.reflects
        return fed | {"offset": start.astype(np.int32), "mirror": chunk.flips.astype(np.int32)}
    end = start + chunk.windows[:, 2:]
    start[chunk.flips, 1], end[chunk.flips, 1] = end[chunk.flips, 1], start[chunk.flips, 1]
    return fed | {"start": start.astype(np.float32), "end": end.astype(np.float32)}


def _define(view: View, gpu: bool):
    from nvidia.dali import fn, types

    def source(name: str, dtype: types.DALIDataType, ndim: int):
        return fn.external_source(name=name, dtype=dtype, ndim=ndim, no_copy=name == "data")

    data, raw, shape = source("data", types.UINT8, 1), source("raw", types.BOOL, 0), source("shape", types.INT32, 1)
    part = {"start": source("anchor", types.INT32, 1), "shape": source("extent", types.INT32, 1), "axes": (0, 1)}
    if raw:
        pixels = fn.slice(fn.reshape(data, shape=shape, layout="HWC"), **part)
        if gpu:
            pixels = pixels.gpu()
    else:
        pixels = fn.decoders.image_slice(
            data,
            **part,
            device="mixed" if gpu else "cpu",
            output_type=types.RGB,
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,  # nvJPEG then interpolates chroma, as libjpeg-turbo does
        )
    size = (view.size, view.size)
    if view.crop == "pad":
        offset, mirror = source("offset", types.INT32, 1), source("mirror", types.INT32, 0)
        if view.reflects:
            pixels = _bordered(pixels, part["shape"], view.pad)
        crop = fn.slice(pixels, start=offset, shape=size, axes=(0, 1), out_of_bounds_policy="pad", fill_values=0)
        return fn.flip(crop, horizontal=mirror)
    return fn.resize(
        pixels,
        size=size,
        interp_type=types.INTERP_LINEAR if view.interpolation == "bilinear" else types.INTERP_CUBIC,
        antialias=True,
        roi_start=source("start", types.FLOAT, 1),
        roi_end=source("end", types.FLOAT, 1),
    )


def _bordered(pixels, sides, pad: int):
    """A part of an image with `pad` pixels around it, mirrored at its edge pixels; black where it has no such pixel."""
    from nvidia.dali import fn

    def strip(pixels, start, axis: int):
        cut = fn.slice(pixels, start=start, shape=[pad], axes=[axis], out_of_bounds_policy="pad", fill_values=0)
        return fn.flip(cut, vertical=int(axis == 0), horizontal=int(axis == 1))

    for axis in (0, 1):
        before, after = strip(pixels, [1], axis), strip(pixels, fn.stack(sides[axis] - 1 - pad), axis)
        pixels = fn.cat(before, pixels, after, axis=axis)
    return pixels
