from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nonsemantic_negatives import MoCoNSRecipe, PatchNegatives
from nonsemantic_negatives.byol import other_samples
from nonsemantic_negatives.cosines import Cosines, read_histograms
from nonsemantic_negatives.histograms import BINS, histogram
from nonsemantic_negatives.textured_shapes import NAME
from retable import views
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate.data import source_opener
from retable.evaluate.protocol import EvalContext
from retable.methods import BYOLRecipe, moco_v2
from retable.methods.method import Method
from retable.methods.moco import MoCo
from retable.random import derive_key

DATA = f"{NAME}?count=40&test_count=30&classes=4&twins=oracle"
OPEN = source_opener(DATA)
PLAIN = views.center(32)
EVALUATION = Cosines(
    (PLAIN, replace(PLAIN, flip_probability=1.0)),
    patches=PatchNegatives(low=5, high=12),
    texture="companion",
)


def trained(recipe: Any = None) -> Method:
    method: Method = (recipe or moco_v2(queue=32)).build(
        ResNetRecipe("small_resnet8", width=0.5).build(rng_key=0), 3
    )
    with torch.no_grad():  # key encoder and query network differ
        for parameter in method.encoder.parameters():
            parameter.mul_(1.1)
    return method.eval()


def run(evaluation: Cosines, method: Method, directory: Path | None = None) -> dict[str, float]:
    context = EvalContext("cpu", method=lambda: method, directory=directory, owner="run/cosines")
    return evaluation.run(method.encoder, OPEN, context)


def unit(network: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        return normalize(network(images), dim=1)


def test_means_are_those_of_the_pairs_embedded_one_by_one() -> None:
    # The first view has no draws, the second is always flipped.
    method = trained()
    assert isinstance(method, MoCo)
    found = run(EVALUATION, method)
    assert list(found) == list(EVALUATION.metrics)
    source = OPEN("test")
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (PLAIN.mean, PLAIN.std))
    images = (torch.stack([source.image(i) for i in range(30)]).float() / 255 - mean) / std
    twins = torch.stack([source.layer(i, "companion") for i in range(30)])
    twins = (twins.float() / 255 - mean) / std
    for suffix, network in (
        ("", lambda x: method.head(method.encoder(x))),
        ("_keys", method.key_encoder),
    ):
        queries = unit(lambda x: method.head(method.encoder(x)), images)
        positives, textures = unit(network, images.flip(3)), unit(network, twins)
        others = other_samples(derive_key(0, "cosines"), torch.arange(30), 30)
        for kind, rows in (
            ("positive", positives),
            ("texture", textures),
            ("standard", positives[others]),
        ):
            cosines = (queries * rows).sum(dim=1)
            assert found[f"{kind}_mean{suffix}"] == pytest.approx(float(cosines.mean()), abs=1e-4)
            assert found[f"{kind}_std{suffix}"] == pytest.approx(float(cosines.std()), abs=1e-4)
        margin = found[f"positive_mean{suffix}"] - found[f"patch_mean{suffix}"]
        assert found[f"margin_patch{suffix}"] == pytest.approx(margin)


def test_baseline_and_method_are_measured_on_the_same_negatives() -> None:
    plain = trained()
    method = trained(MoCoNSRecipe(queue=32, negatives=PatchNegatives(low=2, high=3)))
    method.load_state_dict(plain.state_dict())
    assert run(EVALUATION, plain) == run(EVALUATION, method)


def test_histograms_are_stored_beside_the_result(tmp_path: Path) -> None:
    found = run(EVALUATION, trained(), tmp_path)
    stored = read_histograms(tmp_path, "run/cosines")
    assert len(stored) == 8
    for kind, each in stored.items():
        assert sum(each.counts) == 30
        name = kind.replace("_keys", "_mean_keys") if "_keys" in kind else f"{kind}_mean"
        assert found[name] == each.mean


def test_images_without_textures_have_three_kinds() -> None:
    evaluation = replace(EVALUATION, texture="", images=20)
    found = run(evaluation, trained())
    assert list(found) == list(evaluation.metrics)
    assert not [name for name in found if "texture" in name]


def test_an_encoder_without_its_training_is_refused() -> None:
    encoder = ResNetRecipe("small_resnet8", width=0.5).build(rng_key=0)
    with pytest.raises(UserError, match="need the heads of a training"):
        EVALUATION.run(encoder, OPEN, EvalContext("cpu"))
    byol = BYOLRecipe(dim=6, hidden_dim=8).build(encoder, 0)
    with pytest.raises(UserError, match="need a method with queries and keys, MoCo, got BYOL"):
        run(EVALUATION, byol)


def test_a_histogram_counts_every_cosine_once() -> None:
    cosines = torch.tensor([-1.0, -0.999, 0.0, 0.019, 0.021, 0.9999, 1.0, 1.0 + 1e-6])
    found = histogram(cosines)
    assert len(found.counts) == BINS
    assert (found.counts[0], found.counts[50], found.counts[51]) == (2, 2, 1)
    assert found.counts[99] == 3
    assert sum(found.density) * 2 / BINS == pytest.approx(1)
    values = cosines.clamp(max=1).double()
    assert found.mean == pytest.approx(float(values.mean()))
    assert found.std == pytest.approx(float(values.std()))
