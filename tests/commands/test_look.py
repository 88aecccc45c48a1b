"""The look command: tiles are the images and their maps, pairs those of the mix pass, mistakes one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastmix import cli, look
from fastmix.engine import heat_sheet, trained
from fastmix.models.attribution import grad_cam


def tile(picture: np.ndarray, row: int, column: int, scale: int = 4, size: int = 48) -> np.ndarray:
    """A tile of the page, at its own size."""
    side = scale * size + heat_sheet.GAP
    part = picture[row * side : row * side + scale * size, column * side : column * side + scale * size]
    assert (part.reshape(size, scale, size, scale, 3).swapaxes(1, 2) == part[::scale, ::scale, None, None]).all()
    return part[::scale, ::scale]


def test_a_page_of_images_and_of_pairs(work, capsys):
    files = sorted(str(path.relative_to(work)) for path in (work / "pictures").glob("*/*.jpg"))[::10]
    assert look.main(["run", *files]) == 0
    assert capsys.readouterr().out.startswith(f"look.png: {len(files)} images, test_resnet of run")
    picture = np.asarray(Image.open("look.png"))
    model = trained.load(work / "run", compute="fp32")
    images, names = heat_sheet.opened(model, [files])
    assert names == files
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.cfg.data.mean, model.cfg.data.std))
    x = (images.permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        classes = model.model(x).argmax(1)
    maps = grad_cam(model.model, x, classes).numpy()
    for k in range(len(files)):
        np.testing.assert_array_equal(tile(picture, 0, k), images[k].numpy())
        hot, cold = tile(picture, 1, k).astype(float), images[k].numpy() * 0.45
        white = 0.55 * np.array(heat_sheet.HEAT[-1])
        top = np.unravel_index(maps[k].argmax(), (48, 48))
        assert np.abs(hot[top] - cold[top] - white).max() <= 1
        nothing = maps[k] == 0
        assert np.abs(hot - cold)[nothing].max(initial=0) <= 1
    assert look.main(["run", *files, "--mix", "cutmix", "--seed", "2", "--out", "pairs.png"]) == 0
    pairs = np.asarray(Image.open("pairs.png"))
    assert pairs.shape[0] > picture.shape[0] + 48 * 4 and pairs.shape[1] == picture.shape[1]
    for k in range(len(files)):  # every pixel is one of an image of the batch at that place
        assert (tile(pairs, 0, k) == images.numpy()).all(3).any(0).all()
        assert (tile(pairs, 1, k) != tile(pairs, 2, k)).any() or classes.unique().numel() < 3


def test_colours_begin_with_the_darkened_image():
    image = np.full((1, 2, 2, 3), 100, np.uint8)
    found = heat_sheet.heat(image, np.array([[[0.0, 1.0], [0.5, 0.25]]]))
    assert found[0, 0, 0].tolist() == [45] * 3
    assert found[0, 0, 1].tolist() == [round(45 + 0.55 * c) for c in heat_sheet.HEAT[4]]
    assert found[0, 1, 0].tolist() == [round(45 + 0.55 * c) for c in heat_sheet.HEAT[2]]


@pytest.mark.parametrize(
    "words, says",
    [
        (["nowhere", "pictures"], "nowhere"),
        (["run", "none.jpg"], "none.jpg"),
        (["run", "pictures", "pictures", "pictures"], "90 images are too many for a page; name at most 64"),
        (["run", "pictures/class0/000.jpg", "--mix", "cutmix"], "one image cannot be mixed"),
        (["run", "pictures", "--mix", "vanilla"], "vanilla does not mix two images into one"),
        (["run", "pictures", "--mix", "cutmixx"], "cutmixx"),
        (["run", "pictures", "--out", "no/x.png"], "there is no folder no"),
    ],
)
def test_a_mistake_is_one_line(work, capsys, words, says):
    before = sorted(work.iterdir())
    assert cli.run(look.main, "look", words) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1 and err[0].startswith("fastmix look: error: ") and says in err[0]
    assert sorted(work.iterdir()) == before
