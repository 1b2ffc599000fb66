"""Factor probes on encoders whose features are known."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from retable import views
from retable.data.sources import with_parameter
from retable.errors import UserError
from retable.evaluate.data import source_opener
from retable.evaluate.features import represent
from retable.evaluate.frozen import freeze
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.protocol import EvalContext
from revisiting_ssl.encoders import ResidualRecipe
from studies.revisiting_ssl import factor_probes as study
from studies.revisiting_ssl.factor_pictures import FACTORS, SHOWN
from studies.revisiting_ssl.proxy_rows import rows_of

DATA = "shapes?count=768&test_count=256&size=32&classes=8&rho=0.7"
PLAIN = views.center(32)


class Corner(nn.Module):
    """Returns the pixels of a corner, which show the background of every image."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, :3, :3].flatten(1)


class OutlineLookup(nn.Module):
    """Returns the one-hot outline of images that it looks up by their pixels."""

    def __init__(self, pixels: Tensor, outlines: Tensor) -> None:
        super().__init__()
        self.pixels = nn.Buffer(pixels)
        self.outlines = nn.Buffer(nn.functional.one_hot(outlines).float())

    def forward(self, images: Tensor) -> Tensor:
        nearest = torch.cdist(images.flatten(1), self.pixels).argmin(1)
        return self.outlines[nearest]


def probe_layers(encoder: nn.Module) -> dict[str, float]:
    """Probe an encoder with one layer."""
    layers = study.probed_layers(
        freeze(encoder, "cpu"),
        LogisticProbe(view=PLAIN),
        source_opener(DATA),
        EvalContext("cpu"),
        seed=0,
    )
    (found,) = layers.values()
    return dict(found)


def pixels_and_outlines(data: str) -> tuple[Tensor, Tensor]:
    """Return all images of a data set as an encoder sees them, (n, 3072), and their outlines."""
    opened = source_opener(data)
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


def test_corner_pixels_predict_the_background_only() -> None:
    found = probe_layers(Corner())
    assert found["background"] > 3 * 100 / 12
    assert found["outline"] < 2 * 100 / 8
    assert found["texture"] < 2 * 100 / 8


def test_outlines_do_not_predict_textures() -> None:
    """In pretraining 70 % of the textures follow the outline; for probes they are independent."""
    independent = with_parameter(DATA, "rho", 0)
    found = probe_layers(OutlineLookup(*pixels_and_outlines(independent)))
    assert found["outline"] == 100
    assert found["texture"] < 2 * 100 / 8
    assert found["effective_rank"] == pytest.approx(8, abs=0.2)


def test_variants_are_tested_with_the_probe_of_clean_images() -> None:
    changed = study.probed_variants(
        freeze(OutlineLookup(*pixels_and_outlines(DATA)), "cpu"),
        LogisticProbe(view=PLAIN),
        source_opener(DATA),
        EvalContext("cpu"),
        seed=0,
    )
    assert changed["clean"] == 100
    assert set(SHOWN) <= set(changed)


def test_rows_are_the_four_tasks_of_one_encoder_and_width() -> None:
    rows = rows_of("resnet50_v1", 4)
    assert list(rows) == ["rotation", "exemplar", "relpatchloc", "jigsaw"]
    for row in rows.values():
        encoder = row.pretrain.encoder
        assert isinstance(encoder, ResidualRecipe)
        assert (encoder.version, encoder.widening) == ("v1", 1)  # 4 at paper scale


def test_rows_outside_the_proxy_are_user_errors() -> None:
    with pytest.raises(UserError, match="has no row resnet50_v2 at proxy scale"):
        rows_of("resnet50_v2", 4)
    with pytest.raises(UserError, match="no row resnet50_v1/rotation_16x at proxy scale"):
        rows_of("resnet50_v1", 16)
    with pytest.raises(UserError, match="no row resnet50_v1/exemplar_8x at proxy scale"):
        rows_of("resnet50_v1", 8)


def test_findings_as_table_and_json() -> None:
    numbers = dict.fromkeys((*FACTORS, "effective_rank", "mean_cosine"), 12.34)
    found = study.Found({"root": numbers, "pre_logits": numbers}, dict.fromkeys(SHOWN, 50.0))
    header, *layers, outline = study.as_table(found).splitlines()
    assert header.split() == ["layer", *numbers]
    assert [line.split()[0] for line in layers] == ["root", "pre_logits"]
    assert layers[0].split()[1:] == ["12.3"] * 5 + ["12.340"]
    assert outline.startswith("outline: clean 50.0, sketch 50.0")
    stored = json.loads(json.dumps(study.as_json({"Rotation": [found]}, [3])))
    assert stored["Rotation"]["3"]["layers"]["root"]["texture"] == 12.34
