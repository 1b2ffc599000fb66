"""Labels have the fields that distinguish the runs, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from retable.plots.recorded import label_runs


def recipe(
    kind: str = "MoCoRecipe", seed: int = 0, lr: float = 0.03, optimizer_momentum: float = 0.9,
    encoder: str = "resnet18", **fields: Any
) -> dict[str, Any]:  # fmt: skip
    return {
        "pretrain": {
            "kind": "PretrainRecipe",
            "encoder": {"kind": "EncoderRecipe", "name": encoder},
            "method": {"kind": kind, "momentum": 0.99, **fields},
            "optimizer": {"lr": lr, "momentum": optimizer_momentum, "milestones": [60, 80]},
            "views": [{"size": 224}, {"size": 96}],
        },
        "seed": seed,
    }


@pytest.mark.parametrize(
    ("recipes", "labels"),
    [
        ([recipe()], ["MoCo"]),
        ([recipe(), recipe("BYOLRecipe")], ["MoCo", "BYOL"]),
        ([recipe(momentum=0.5), recipe(momentum=1.0)], ["MoCo, momentum=0.5", "MoCo, momentum=1"]),
        ([recipe(seed=3), recipe(seed=4)], ["MoCo, seed=3", "MoCo, seed=4"]),
        # A field that only one of the methods has tells nothing that the method does not.
        (
            [
                recipe(),
                recipe("MoCoFTRecipe", transform={"start_epoch": 0.0, "level": "batch"}),
                recipe("MoCoFTRecipe", transform={"start_epoch": 30.0, "level": "batch"}),
            ],
            ["MoCo", "MoCoFT, start_epoch=0", "MoCoFT, start_epoch=30"],
        ),
        # Fields that change together are said by one of them, of the method if there is one.
        (
            [recipe(temperature=0.07, lr=0.03, seed=1), recipe(temperature=0.2, lr=0.003, seed=2)],
            ["MoCo, temperature=0.07", "MoCo, temperature=0.2"],
        ),
        # The same name in two places has its place.
        (
            [recipe(momentum=0.5), recipe(momentum=0.9),
             recipe(momentum=0.9, optimizer_momentum=0)],
            ["MoCo, method.momentum=0.5, optimizer.momentum=0.9",
             "MoCo, method.momentum=0.9, optimizer.momentum=0.9",
             "MoCo, method.momentum=0.9, optimizer.momentum=0"],
        ),
        (
            [recipe(encoder="resnet18"), recipe(encoder="resnet50")],
            ["MoCo, encoder.name=resnet18", "MoCo, encoder.name=resnet50"],
        ),
        ([recipe(shuffle=True), recipe(shuffle=False)],
         ["MoCo, shuffle=true", "MoCo, shuffle=false"]),
        ([recipe(hard_beta=[2, 1]), recipe(hard_beta=[5, 2])],
         ["MoCo, hard_beta=[2, 1]", "MoCo, hard_beta=[5, 2]"]),
        ([recipe(), recipe()], ["MoCo (run0)", "MoCo (run1)"]),
        ([None, recipe()], ["run0", "MoCo"]),
        ([{"note": "of another program"}, None], ["run0", "run1"]),
    ],
)  # fmt: skip
def test_labels(recipes: list[Any], labels: list[str]) -> None:
    assert label_runs(recipes, [f"run{i}" for i in range(len(recipes))]) == labels


def test_a_recipe_that_is_no_object_is_no_mistake() -> None:
    assert label_runs([[1, 2], "text"], ["a", "b"]) == ["a", "b"]
