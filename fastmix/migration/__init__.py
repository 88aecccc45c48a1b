"""What other programs' files say, in this one's words: configs of OpenMixup and saved arguments of timm."""

from __future__ import annotations

from pathlib import Path


def migrate(path: Path, gpus: int | None = None) -> tuple[str, list[str]]:
    """The YAML of a config that does what the file says, and a line for each thing that has no equivalent.

    gpus: the processes of that training, where they are known. Raises ValueError of one line for a file of neither
    kind, and OSError.
    """
    from fastmix.migration import openmixup, timm_args
    from fastmix.migration.draft import written

    kinds = {".py": openmixup.migrated, ".yaml": timm_args.migrated, ".yml": timm_args.migrated}
    if path.suffix not in kinds:
        raise ValueError(f"{path}: neither a config of OpenMixup (.py) nor timm's args.yaml")
    try:
        cfg, notes = kinds[path.suffix](path, gpus)
    except RecursionError:
        raise ValueError(f"{path}: its values are nested too deeply") from None
    notes = [" ".join(note.split()) for note in notes]
    return written(cfg, [f"From {path.name}, by python -m fastmix.migrate.", *notes]), notes
