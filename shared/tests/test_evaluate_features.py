from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retable import random
from retable.data.source import Source
from retable.data.sources import open_source
from retable.distributed import process_index
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate import representation as representation_module
from retable.evaluate.features import Features, gather_uneven, represent
from retable.evaluate.frozen import freeze
from retable.evaluate.knn import Knn
from retable.evaluate.linear import LinearProbe
from retable.evaluate.protocol import EvalContext
from retable.evaluate.representation import Representation
from retable.precision import autocast_dtype
from retable.testing import run_processes
from retable.views import ViewRecipe, center, crop_and_flip, make_view

Results = list[dict[str, Any]]
DATA = "shapes?count=90&test_count=45&classes=5"


def trained(name: str = "small_resnet8", **settings: Any) -> nn.Module:
    """Return an encoder whose batch norms have statistics and scales unlike those at the start."""
    encoder = ResNetRecipe(name, **settings).build(rng_key=0)
    for position, module in enumerate(encoder.modules()):
        if isinstance(module, nn.BatchNorm2d):
            draws = random.uniform(position, torch.arange(4 * module.num_features)).view(4, -1)
            module.weight.data, module.bias.data = draws[0] + 0.5, draws[1] - 0.5
            module.running_mean, module.running_var = draws[2] - 0.5, draws[3] + 0.5
    return encoder


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "small_resnet8"},
        {"name": "small_resnet8", "norm": "group"},
        {"name": "resnet18", "width": 0.25, "stem": "small"},
        {"name": "resnet50", "width": 0.125},
    ],
)
def test_frozen_features_are_those_of_the_encoder_in_eval_mode(settings: dict[str, Any]) -> None:
    # Reference: the encoder itself, whose batch norms are not folded.
    encoder = trained(**settings).eval()
    images = random.normal(0, torch.arange(4 * 3 * 32 * 32)).view(4, 3, 32, 32)
    with torch.no_grad():
        expected = encoder(images)
    scale = float(expected.abs().max())
    torch.testing.assert_close(freeze(encoder, "cpu")(images), expected, rtol=0, atol=1e-5 * scale)


def extract(
    encoder: nn.Module,
    source: Source,
    view: ViewRecipe,
    precision: str = "float32",
    rng_key: int | None = None,
) -> Features:
    frozen, context = freeze(encoder, "cpu", precision), EvalContext("cpu")
    found = represent(frozen, source, view, Representation(), context, rng_key=rng_key)
    return found["pre_logits"]


def test_extraction_leaves_the_encoder_as_it_was() -> None:
    encoder = trained().train()
    encoder.get_submodule("blocks.0").eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    modes = [module.training for module in encoder.modules()]
    extract(encoder, open_source(DATA, "test"), center(32))
    assert [module.training for module in encoder.modules()] == modes
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize("view", [center(32), crop_and_flip(24)])
def test_features_come_in_the_order_of_the_source_in_batches_of_any_size(
    view: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, source = trained(), open_source(DATA, "test")
    monkeypatch.setattr(representation_module, "images_per_call", lambda *_: 1)
    one = extract(encoder, source, view, rng_key=5)
    monkeypatch.setattr(representation_module, "images_per_call", lambda *_: 32)
    many = extract(encoder, source, view, rng_key=5)
    assert torch.equal(one.labels, source.labels)
    torch.testing.assert_close(one.features, many.features, rtol=1e-4, atol=1e-5)
    pool = source.resident()
    assert pool is not None
    with torch.no_grad():
        expected = encoder.eval()(make_view(pool, torch.arange(45), view, 5))
    torch.testing.assert_close(many.features, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_is_near_and_float32_is_returned() -> None:
    encoder, source = trained(), open_source(DATA, "test")
    full = extract(encoder, source, center(32)).features
    half = extract(encoder, source, center(32), precision="bf16").features
    assert half.dtype == torch.float32
    assert float((half - full).norm() / full.norm()) < 0.02


def test_an_unknown_precision_ends_with_a_sentence() -> None:
    with pytest.raises(UserError, match="must be one of float32, bf16, fp16, got 'double'"):
        autocast_dtype("double")


def _uneven() -> Tensor:
    rows = 3 * torch.arange(4)[: process_index() + 2] + 100 * process_index()
    return gather_uneven(rows[:, None])


def test_shares_of_unequal_size_are_joined_in_rank_order(
    two_processes: Results,
) -> None:
    expected = torch.tensor([0, 3, 100, 103, 106])[:, None]
    assert all(torch.equal(found["uneven"], expected) for found in two_processes)


def _evaluate() -> tuple[Tensor, dict[str, float], dict[str, float]]:
    def open_split(split: str, variant: str | None = None, data: str | None = None) -> Any:
        return open_source(DATA, split)

    encoder = trained()
    probe = LinearProbe(lr=0.3, batch=16, epochs=2, milestones=(1,))
    found = extract(encoder, open_source(DATA, "test"), crop_and_flip(32), rng_key=1)
    linear = probe.run(encoder, open_split, EvalContext("cpu"), seed=1)
    return found.features, linear, Knn(k=7).run(encoder, open_split, EvalContext("cpu"))


def test_two_processes_measure_what_one_measures(two_processes: Results) -> None:
    # 45 test images: the processes' shares differ in size.
    features, linear, knn = _evaluate()
    for other_features, other_linear, other_knn in (found["evaluated"] for found in two_processes):
        torch.testing.assert_close(other_features, features, rtol=1e-4, atol=1e-5)
        assert other_linear["train_loss"] == pytest.approx(linear["train_loss"], rel=1e-4)
        assert other_linear["top1"] == pytest.approx(linear["top1"], abs=100 / 45 + 1e-6)
        assert other_knn == pytest.approx(knn, abs=100 / 45 + 1e-6)


def _evaluate_one_image() -> str:
    source = open_source("shapes?test_count=1&classes=2", "test")
    with pytest.raises(UserError) as caught:
        extract(trained(), source, center(32))
    return str(caught.value)


def _in_process() -> dict[str, Any]:
    return {"uneven": _uneven(), "evaluated": _evaluate(), "refusal": _evaluate_one_image()}


@pytest.fixture(scope="module")
def two_processes() -> Results:
    """Return what `_in_process` gives in each of two: starting them is what takes time."""
    return run_processes(_in_process, 2)


def test_more_processes_than_images_end_with_a_sentence(
    two_processes: Results,
) -> None:
    assert all("2 processes share 1 images" in found["refusal"] for found in two_processes)
