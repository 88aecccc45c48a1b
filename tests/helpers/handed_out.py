"""One small data set in each form in which ImageNet is handed out; and other data sets, made up, in their own forms."""

from __future__ import annotations

import csv
import io
import json
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np

from helpers.conversion import CONVERTED, saved, smooth, tree

WNIDS = ["n01440764", "n01443537", "n02105855"]
NAMES = {f"{w}/{w}_{k}.JPEG": saved(smooth(24, 30, seed=10 * i + k)) for i, w in enumerate(WNIDS) for k in (7, 12, 101)}
NAMES["n02105855/n02105855_2933.JPEG"] = CONVERTED["png"][0]  # as in ImageNet: a PNG, and JPEGs in CMYK
NAMES["n01443537/n01443537_9.JPEG"] = CONVERTED["cmyk"][0]
VAL = {f"ILSVRC2012_val_{k:08}.JPEG": (WNIDS[k * 2 % 3], saved(smooth(20, 20, seed=50 + k))) for k in range(1, 8)}


def tar(files: dict[str, bytes], mode: str = "w", **options) -> bytes:
    """A tar of these files, in this order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, **options) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def shuffled(files: dict[str, bytes], seed: int = 0) -> dict[str, bytes]:
    names = list(files)
    return {names[k]: files[names[k]] for k in np.random.default_rng(seed).permutation(len(names))}


def flat(name: str) -> str:
    return name.rpartition("/")[2]


def train_forms(folder: Path) -> dict[str, Path | str]:
    """The training images, by the form's name: what `scan` is given."""
    by_class = {w: {flat(name): data for name, data in NAMES.items() if name.startswith(w)} for w in WNIDS}
    inner = {f"{w}.tar": tar(shuffled(files)) for w, files in by_class.items()}
    made = {"class folders": tree(folder / "train", NAMES)}
    tree(folder / "ilsvrc", {"ILSVRC2012_img_train.tar": tar(shuffled(inner))})
    made["ILSVRC2012_img_train.tar"] = folder / "ilsvrc" / "ILSVRC2012_img_train.tar"
    made["imagenet/train"] = folder / "ilsvrc" / "train"
    made["a tar a class"] = tree(folder / "winter21", inner)
    tree(folder, {"whole.tar": tar({f"./train/{name}": data for name, data in shuffled(NAMES).items()})})
    made["a tar of class folders"] = folder / "whole.tar"
    tree(folder / "kaggle" / "ILSVRC/Data/CLS-LOC/train", NAMES)
    made["Kaggle"] = folder / "kaggle" / "train"
    names = {name.replace("/", "/images/"): data for name, data in NAMES.items()}
    tree(folder, {"pax.tar": tar({f"{'deep/' * 40}{name}": data for name, data in names.items()},
                                 format=tarfile.PAX_FORMAT)})  # fmt: skip
    made["a tar with long names"] = folder / "pax.tar"
    for kind in ("cls", "json"):
        shards: list[dict[str, bytes]] = [{}, {}]
        for k, (name, data) in enumerate(shuffled(NAMES).items()):
            label = WNIDS.index(name.partition("/")[0])
            key = flat(name).removesuffix(".JPEG")
            told = str(label) if kind == "cls" else json.dumps({"filename": name, "label": label})
            shards[k % 2] |= {f"{key}.jpeg": data, f"{key}.{kind}": told.encode()}
        tree(folder / f"wds_{kind}", {f"imagenet1k-train-000{k}.tar": tar(shard) for k, shard in enumerate(shards)})
        made[f"WebDataset, .{kind}"] = folder / f"wds_{kind}" / "train"
    made["WebDataset by a pattern"] = f"{folder}/wds_cls/imagenet1k-train-{{0000..0001}}.tar"
    return made


def parquet(path: Path, rows: list[tuple[str, bytes, int]], names: list[str] | None, group: int = 3) -> None:
    """A parquet file as Hugging Face's `datasets` writes it."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    path.parent.mkdir(parents=True, exist_ok=True)
    cells = pa.array([{"bytes": data, "path": name} for name, data, _ in rows],
                     pa.struct([("bytes", pa.binary()), ("path", pa.string())]))  # fmt: skip
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    meta = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    schema = pa.schema([("image", cells.type), ("label", pa.int64())], meta)
    write_table(pa.table([cells, pa.array([label for *_, label in rows])], schema), path, row_group_size=group)


def val_forms(folder: Path) -> dict[str, Path]:
    """The validation images, by the form's name."""
    from scipy.io import savemat

    images = {name: data for name, (_, data) in VAL.items()}
    made = {"class folders": tree(folder / "val", {f"{wnid}/{name}": data for name, (wnid, data) in VAL.items()})}
    kaggle = folder / "kaggle"
    made["Kaggle"] = tree(kaggle / "ILSVRC/Data/CLS-LOC/val", images)
    with (kaggle / "LOC_val_solution.csv").open("w", newline="") as file:
        pairs = [(name.removesuffix(".JPEG"), f"{wnid} 1 2 3 4 ") for name, (wnid, _) in reversed(VAL.items())]
        csv.writer(file).writerows([("ImageId", "PredictionString"), *pairs])
    made["Kaggle's root"] = kaggle / "val"
    # the development kit numbers its classes in another order, and knows others above them
    ids = {wnid: k for k, wnid in enumerate(reversed(WNIDS), 1)}
    kinds = [("ILSVRC2012_ID", float), ("WNID", object), ("num_children", float)]
    synsets = np.array([(ids[w], w, 0) for w in ids] + [(4, "n00001740", 3)], kinds)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{ids[wnid]}\n" for wnid, _ in VAL.values())
    kit = {
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
        "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
    }
    tree(
        folder / "ilsvrc",
        {"ILSVRC2012_img_val.tar": tar(shuffled(images)), "ILSVRC2012_devkit_t12.tar.gz": tar(kit, "w:gz")},
    )
    made["ILSVRC2012_img_val.tar"] = folder / "ilsvrc" / "ILSVRC2012_img_val.tar"
    made["imagenet/val"] = folder / "ilsvrc" / "val"
    tree(folder / "unpacked", {"ILSVRC2012_img_val.tar": tar(images), **kit})
    made["the kit's folder"] = folder / "unpacked" / "val"
    return made


def cifar(folder: Path, images: np.ndarray, labels: list[int], coarse: list[int] | None = None) -> dict[str, Path]:
    """Pixels uint8 [n,32,32,3] as CIFAR-10's or, with coarse labels, CIFAR-100's two versions; n a multiple of 6.

    The last sixth is the test set.
    """
    rows, sixth = images.transpose(0, 3, 1, 2).reshape(len(images), -1), len(images) // 6
    names = [f"class {k}" for k in range(max(labels) + 1)]
    python, binary = folder / "python", folder / "binary"
    python.mkdir(parents=True), binary.mkdir()
    parts = {f"data_batch_{k + 1}": slice(k * sixth, (k + 1) * sixth) for k in range(5)} | {
        "test_batch": slice(5 * sixth, None)
    }
    if coarse:
        parts = {"train": slice(0, 5 * sixth), "test": slice(5 * sixth, None)}
        groups = [f"group {k}" for k in range(max(coarse) + 1)]
        _pickle(python / "meta", {b"fine_label_names": [n.encode() for n in names],
                                  b"coarse_label_names": [n.encode() for n in groups]})  # fmt: skip
        (binary / "fine_label_names.txt").write_text("\n".join(names) + "\n\n")
        (binary / "coarse_label_names.txt").write_text("\n".join(groups) + "\n")
    else:
        _pickle(python / "batches.meta", {b"label_names": [n.encode() for n in names], b"num_vis": 3072})
        (binary / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    for name, part in parts.items():
        told = {b"fine_labels": labels[part], b"coarse_labels": coarse[part]} if coarse else {b"labels": labels[part]}
        _pickle(python / name, {b"data": np.ascontiguousarray(rows[part]), b"filenames": [], **told})
        columns = [np.array(x[part], np.uint8)[:, None] for x in ((coarse, labels) if coarse else (labels,))]
        (binary / f"{name}.bin").write_bytes(np.concatenate([*columns, rows[part]], 1).tobytes())
    return {"python": python, "binary": binary}


class _Python2(pickle._Pickler):
    """Texts and bytes are Python 2's one type, as in CIFAR's files."""

    def save_text(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch = pickle._Pickler.dispatch | {str: save_text, bytes: save_text}


def _pickle(path: Path, content: dict) -> None:
    with path.open("wb") as file:
        _Python2(file, protocol=2).dump(content)
