"""Names of runs, and the groups of those that differ in their seed alone."""

from pathlib import Path

import pytest

from fastmix import config
from fastmix.runs.groups import groups
from fastmix.runs.run_folder import Run
from fastmix.runs.short_names import names


def runs(*words: str, base: str = "cifar10_quarter") -> list[Run]:
    """A run for each text of settings."""
    return [Run(Path(f"r{k}"), config.load(base, text.split()), [], {}, True, 0.0, []) for k, text in enumerate(words)]


@pytest.mark.parametrize(
    "settings, wanted",
    [
        (["mix=cutmix", "mix=mixup"], ["cutmix", "mixup"]),
        (["mix=cutmix seed=0", "mix=cutmix seed=1", "mix=cutmix out=a device=cpu"], ["cutmix"] * 3),
        (
            ["mix=cutmix", "mix=cutmix mixers.cutmix.alpha=1", "mix=cutmix optim.lr=0.2"],
            ["cutmix", "cutmix alpha=1", "cutmix lr=0.2"],
        ),
        (["mix=cutmix", "mix=cutmix optim.lr=0.2"], ["cutmix lr=0.1", "cutmix lr=0.2"]),
        (["mix=cutmix", "mix=cutmix optim.lr=0.2", "mix=mixup"], ["cutmix", "cutmix lr=0.2", "mixup"]),
        (  # two that always go together are told once
            ["mix=cutmix", "mix=cutmix optim.lr=0.2 optim.weight_decay=0.1", "mix=mixup"],
            ["cutmix", "cutmix lr=0.2", "mixup"],
        ),
        (  # each of a grid
            [f"mix=mixup optim.lr={lr} mixers.mixup.alpha={a}" for lr in (0.1, 0.2) for a in (0.5, 2)],
            [f"mixup alpha={a} lr={lr}" for lr in (0.1, 0.2) for a in (0.5, 2)],
        ),
        (  # what a method leaves out goes without saying
            ["mix=gridmix", "mix=gridmix mixers.gridmix.variant=openmixup"],
            ["gridmix", "gridmix variant=openmixup"],
        ),
        (  # other keys end with lr, too; the method's own one keeps its place
            ["mix=automix", "mix=automix optim.lr=0.2", "mix=automix mixers.automix.block.lr=1", "mix=cutmix"],
            ["automix", "automix optim.lr=0.2", "automix block.lr=1", "cutmix"],
        ),
        (
            ["mix=cutmix", "mix=cutmix model.name=resnet50 optim.lr=1", "mix=mixup model.name=resnet50"],
            ["cutmix resnet18_quarter_cifar", "cutmix", "mixup"],
        ),
        (["mix=vanilla", "mix=cutmix model.name=resnet50"], ["vanilla resnet18_quarter_cifar", "cutmix resnet50"]),
        (["mix=cutmix", "mix=cutmix fidelity=openmixup"], ["cutmix paper", "cutmix openmixup"]),
        (
            [f"mix=attentivemix mixers.attentivemix.weights=runs/{k}.safetensors" for k in "ab"],
            ["attentivemix weights=a.safetensors", "attentivemix weights=b.safetensors"],
        ),
        (
            [f"mix=attentivemix mixers.attentivemix.weights=runs/{k}/w.pt" for k in "ab"],
            ["attentivemix weights=runs/a/w.pt", "attentivemix weights=runs/b/w.pt"],
        ),
    ],
)
def test_names_tell_what_differs(settings, wanted):
    assert names(runs(*settings)) == wanted
    assert names(runs(*settings[::-1])) == wanted[::-1], "whatever the order"


def test_other_data_under_the_same_name_are_another_group():
    told = {"train_images": 5000, "val_images": 100, "classes": 10, "names": "abc"}
    for key, value in {"train_images": 4000, "classes": 9, "names": "xyz"}.items():
        a, b, c = found = runs("mix=cutmix", "mix=cutmix seed=1", "mix=cutmix seed=2")
        a.data = b.data = told
        c.data = told | {key: value}
        assert groups(found) == [[a, b], [c]]
        assert (
            names(found) == ["cutmix", "cutmix", f"cutmix {key}={value}"] or names(found)[2] == f"cutmix {key}={value}"
        )


def test_groups_are_sorted_by_seed():
    found = runs("mix=cutmix seed=2", "mix=mixup", "mix=cutmix seed=0", "mix=cutmix seed=1 optim.lr=0.3")
    a, b, c, d = found
    assert groups(found) == [[c, a], [b], [d]]
