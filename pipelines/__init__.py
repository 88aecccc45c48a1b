"""Loaders: from stored images to batches uint8 [B,S,S,3] on the device. All have the contract of loader.Loader."""

import difflib
from importlib import import_module

LOADERS = {
    "beton": "fastmix.pipelines.beton:Beton",
    "dali": "fastmix.pipelines.dali:Dali",
    "ffcv": "fastmix.pipelines.ffcv:Ffcv",
    "folder": "fastmix.pipelines.folder:Folder",
    "resident": "fastmix.pipelines.resident:Resident",
    "synthetic": "fastmix.pipelines.synthetic:Synthetic",
}


def loader_class(name: str) -> type:
    """The loader of that name in LOADERS. Raises ValueError for an unknown one."""
    if name not in LOADERS:
        near = difflib.get_close_matches(name, LOADERS, 1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no loader is called {name!r}; {guess}There are {', '.join(LOADERS)}")
    module, attribute = LOADERS[name].split(":")
    return getattr(import_module(module), attribute)
