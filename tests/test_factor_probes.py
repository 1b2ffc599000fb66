"""What the factor probes find of encoders whose features are known beforehand."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from retable import views
from retable.errors import UserError
from retable.evaluate.features import represent
from retable.evaluate.frozen import freeze
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.protocol import EvalContext

FOLDER = Path(__file__).parents[1] / "reproductions" / "revisiting_ssl"
DATA = "shapes?count=768&test_count=256&size=32&classes=8&rho=0.7"
PLAIN = views.center(32)


def script() -> ModuleType:
    """Import the script as it imports those beside it, by their bare names."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("factor_probes")
    finally:
        sys.path.remove(str(FOLDER))


S = script()


class Corner(nn.Module):
    """Sees the colours of a corner alone: the ground behind every object."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, :3, :3].flatten(1)


class KnowsTheOutline(nn.Module):
    """Looks images up whose outline it was told, and says that alone."""

    def __init__(self, pixels: Tensor, outlines: Tensor) -> None:
        super().__init__()
        self.pixels = nn.Buffer(pixels)
        self.outlines = nn.Buffer(nn.functional.one_hot(outlines).float())

    def forward(self, images: Tensor) -> Tensor:
        nearest = torch.cdist(images.flatten(1), self.pixels).argmin(1)
        return self.outlines[nearest]


def found_of(encoder: nn.Module) -> dict[str, float]:
    """Probe an encoder that has one layer."""
    layers = S.probed_layers(
        freeze(encoder, "cpu"),
        LogisticProbe(view=PLAIN),
        S.opener(DATA),
        EvalContext("cpu"),
        seed=0,
    )
    (found,) = layers.values()
    return dict(found)


def on_progress(data: str) -> tuple[Tensor, Tensor]:
    """Return all images of a data set as an encoder sees them, (n, 3072), and their outlines."""
    opened = S.opener(data)
    probe = LogisticProbe(view=PLAIN)
    seen = [
        represent(
            freeze(nn.Flatten(), "cpu"),
            opened(split),
            PLAIN,
            probe.representation,
            EvalContext("cpu"),
        )["pre_logits"]
        for split in ("train", "test")
    ]
    return torch.cat([one.features for one in seen]), torch.cat([one.labels for one in seen])


def test_who_sees_a_corner_knows_the_ground_and_not_the_outline() -> None:
    found = found_of(Corner())
    assert found["background"] > 3 * 100 / 12
    assert found["outline"] < 2 * 100 / 8
    assert found["texture"] < 2 * 100 / 8


def test_who_knows_the_outline_does_not_thereby_know_the_texture() -> None:
    """In pretraining 70 % of textures go with the outline; probes see them independent."""
    independent = S.with_parameter(DATA, "rho", 0)
    found = found_of(KnowsTheOutline(*on_progress(independent)))
    assert found["outline"] == 100
    assert found["texture"] < 2 * 100 / 8
    assert found["effective_rank"] == pytest.approx(8, abs=0.2)


def test_every_variant_that_is_shown_is_tested_with_the_probe_of_clean_images() -> None:
    changed = S.probed_variants(
        freeze(KnowsTheOutline(*on_progress(DATA)), "cpu"),
        LogisticProbe(view=PLAIN),
        S.opener(DATA),
        EvalContext("cpu"),
        seed=0,
    )
    assert changed["clean"] == 100
    assert set(S.SHOWN) <= set(changed)


def test_the_rows_are_the_four_tasks_of_one_encoder_at_one_width() -> None:
    rows = S.rows_of("resnet50_v1", 4)
    assert list(rows) == ["rotation", "exemplar", "relpatchloc", "jigsaw"]
    encoders = [row.pretrain.encoder for row in rows.values()]
    assert {encoder.version for encoder in encoders} == {"v1"}
    assert {encoder.widening for encoder in encoders} == {1}  # 4 at paper scale


def test_what_the_proxy_leaves_out_is_named() -> None:
    with pytest.raises(UserError, match="has no row resnet50_v2 at proxy scale"):
        S.rows_of("resnet50_v2", 4)
    with pytest.raises(UserError, match="no resnet50_v1/rotation_16x: expected one of"):
        S.rows_of("resnet50_v1", 16)
    with pytest.raises(UserError, match="no resnet50_v1/exemplar_8x: expected one of"):
        S.rows_of("resnet50_v1", 8)


def test_what_was_found_is_told_as_lines_and_as_json() -> None:
    numbers = dict.fromkeys((*S.FACTORS, "effective_rank", "mean_cosine"), 12.34)
    found = S.Found({"root": numbers, "pre_logits": numbers}, dict.fromkeys(S.SHOWN, 50.0))
    header, *layers, outline = S.as_table(found).splitlines()
    assert header.split() == ["layer", *numbers]
    assert [line.split()[0] for line in layers] == ["root", "pre_logits"]
    assert layers[0].split()[1:] == ["12.3"] * 5 + ["12.340"]
    assert outline.startswith("outline: clean 50.0, sketch 50.0")
    told_as = json.loads(json.dumps(S.as_json({"Rotation": [found]}, [3])))
    assert told_as["Rotation"]["3"]["layers"]["root"]["texture"] == 12.34
