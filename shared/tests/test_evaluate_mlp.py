from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retable import random
from retable.data.source import Source
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate import features, head_training, named_protocol
from retable.evaluate.data import EvalData, open_eval_splits, source_opener
from retable.evaluate.features import represent
from retable.evaluate.frozen import freeze
from retable.evaluate.linear import LinearProbe
from retable.evaluate.mlp import MlpProbe, MlpState, layer_penalty
from retable.evaluate.protocol import EvalContext
from retable.evaluate.representation import Representation
from retable.files import read_record
from retable.testing import StoppedError, run_processes
from retable.views import center, crop_and_flip

DATA = "shapes?count=96&test_count=48&size=16&classes=4"


open_shapes = source_opener(DATA)


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    return ResNetRecipe("small_resnet8", width=0.5).build(rng_key=0)


def probe(**settings: Any) -> MlpProbe:
    defaults: dict[str, Any] = {"hidden": 20, "batch": 20, "epochs": 4, "milestones": (2, 3)}
    return MlpProbe(**(defaults | {"lr": 0.1} | settings))


def run(recipe: MlpProbe, encoder: nn.Module, directory: Path | None = None) -> dict[str, float]:
    return recipe.run(encoder, open_shapes, EvalContext("cpu", directory), seed=0)


def doubled(state: MlpState) -> MlpState:
    return MlpState(**{name: value.double() for name, value in state.tensors().items()})


def network(state: MlpState) -> nn.Sequential:
    (hidden, dim), classes = state.hidden_weight.shape, len(state.weight)
    layers = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    layers = layers.to(state.weight)
    values = zip(layers.parameters(), state.parameters(), strict=True)
    for parameter, value in values:
        parameter.data = value.clone()
    return layers


def dropped(hidden: Tensor, rate: float, rng_key: int, numbers: Tensor) -> Tensor:
    """Return what dropout of ones says, as a constant factor on the hidden units."""
    from retable.random import dropout

    return hidden * dropout(torch.ones_like(hidden), rate, rng_key, numbers)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_step_equals_torch_sgd_on_torch_layers(rate: float) -> None:
    # Reference: nn.Linear, autograd and torch.optim.SGD, the penalty written out; float64.
    x = random.normal(0, torch.arange(5 * 24 * 7)).view(5, 24, 7).double()
    y = random.integers(1, torch.arange(5 * 24), 4).view(5, 24)
    state = doubled(MlpState.initial(4, 11, 7, rng_key=2))
    layers = network(state)
    recipe = MlpProbe(lr=0.3, momentum=0.9, penalty=10.0, dropout=rate)
    rng_key = random.derive_key(5, "MLP probe", "dropout", 1)
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.3, momentum=0.9)
    for step, (inputs, labels) in enumerate(zip(x, y, strict=True)):
        numbers = torch.arange(24 * step, 24 * (step + 1))
        hidden = dropped(layers[:2](inputs), rate, rng_key, numbers)
        loss = F.cross_entropy(layers[2](hidden), labels)
        penalty = sum(
            10.0 / (layer.in_features * layer.out_features) * layer.weight.square().sum()
            for layer in (layers[0], layers[2])
            if isinstance(layer, nn.Linear)
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss + penalty)
        optimizer.step()
        ours = recipe.step(state, inputs, labels, 24 * step, epoch=1, seed=5)
        torch.testing.assert_close(ours[0], loss.detach(), rtol=1e-12, atol=0)
    for found, expected in zip(state.parameters(), layers.parameters(), strict=True):
        torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-14)


def test_each_layers_penalty_is_that_of_the_paper() -> None:
    # Reference: 100 / (M C) by hand for 2048 features and 1000 outputs.
    assert layer_penalty(100.0, torch.zeros(1000, 2048)) == 4.8828125e-05


def test_weights_begin_as_glorots() -> None:
    state = MlpState.initial(50, 300, 200, rng_key=1)
    for weight, bound in (
        (state.hidden_weight, (6 / 500) ** 0.5),
        (state.weight, (6 / 350) ** 0.5),
    ):
        assert bound * 0.99 < float(weight.abs().max()) <= bound
        assert abs(float(weight.mean())) < 0.02 * bound
    assert not state.hidden_bias.any()
    assert not state.bias.any()
    overlap = min(state.hidden_weight.numel(), state.weight.numel())
    first, second = state.hidden_weight.flatten(), state.weight.flatten()
    assert abs(float(torch.corrcoef(torch.stack([first[:overlap], second[:overlap]]))[0, 1])) < 0.05


def test_the_probe_equals_its_loop_written_out(encoder: nn.Module) -> None:
    # Reference: torch modules and optimizer on the features, in the probe's order; learning rate
    # by epoch, no dropout when tested.
    splits = open_eval_splits(open_shapes, EvalData())
    frozen, context = freeze(encoder, "cpu"), EvalContext("cpu")
    train, test = (
        represent(frozen, source, center(16), Representation(), context)["pre_logits"]
        for source in (splits.train, splits.test)
    )
    purpose = "MLP probe"
    dim = train.features.shape[1]
    state = MlpState.initial(4, 20, dim, random.derive_key(3, purpose, "weights"))
    layers = network(state)
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1, momentum=0.9)
    for epoch, lr in enumerate([0.1, 0.1, 0.01, 0.001]):
        optimizer.param_groups[0]["lr"] = lr
        order = random.permutation(random.derive_key(3, purpose, "order", epoch), 96)
        rng_key = random.derive_key(3, purpose, "dropout", epoch)
        for first in range(0, 96, 20):
            rows = order[first : first + 20]
            numbers = torch.arange(first, first + len(rows))
            hidden = dropped(layers[:2](train.features[rows]), 0.5, rng_key, numbers)
            loss = F.cross_entropy(layers[2](hidden), train.labels[rows])
            for layer, size in ((0, dim * 20), (2, 20 * 4)):
                loss = loss + 1.0 / size * layers[layer].get_parameter("weight").square().sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    with torch.no_grad():
        hits = layers(test.features).argmax(1) == test.labels
    ours = probe(penalty=1.0).run(encoder, open_shapes, EvalContext("cpu"), seed=3)
    assert ours["top1"] == pytest.approx(100 * float(hits.float().mean()), abs=100 / 48 + 1e-6)


def test_an_mlp_learns_what_no_linear_classifier_can() -> None:
    # Exclusive or of two signs.
    x = random.normal(0, torch.arange(400)).view(200, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()
    recipe = MlpProbe(hidden=32, dropout=0.1, penalty=0.0)
    state = recipe.init(2, 2, rng_key=0)
    for epoch in range(600):
        recipe.step(state, x, y, 0, min(epoch, 59), seed=0)
    assert float((state.scores(x)[0].argmax(1) == y).float().mean()) > 0.93


def test_what_is_dropped_changes_from_step_to_step_and_epoch_to_epoch() -> None:
    recipe, x = probe(lr=1e-12), torch.ones(20, 7)
    y = torch.zeros(20, dtype=torch.int64)
    state = recipe.init(4, 7, rng_key=0)
    losses = [
        float(recipe.step(state, x, y, first, epoch, seed))
        for first, epoch, seed in ((0, 0, 0), (20, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0))
    ]
    assert len({round(loss, 6) for loss in losses[:4]}) == 4
    assert losses[4] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize("view", [None, crop_and_flip(16)], ids=["fixed", "random"])
def test_a_killed_probe_goes_on_and_ends_with_the_same_bits(
    view: Any, encoder: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = probe(train_view=view)
    whole = run(recipe, encoder)
    measure = head_training._measure
    calls = 0

    def dying(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (2, 4):
            raise StoppedError
        return measure(*args)

    monkeypatch.setattr(head_training, "_measure", dying)
    for _ in range(2):
        with pytest.raises(StoppedError):
            run(recipe, encoder, tmp_path)
    assert run(recipe, encoder, tmp_path) == whole
    curve = read_record(tmp_path / "curve.json")
    assert curve["epoch"] == [1, 2, 3, 4]
    assert curve["top1"]["pre_logits"][-1] == whole["top1"]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the sources whose features are computed."""
    seen: list[str] = []

    def counted(frozen: Any, source: Source, *args: Any, **kwargs: Any) -> Any:
        seen.append(source.description["split"])
        return features.represent(frozen, source, *args, **kwargs)

    monkeypatch.setattr(head_training, "represent", counted)
    return seen


def test_features_of_a_view_that_does_not_vary_are_computed_once(
    encoder: nn.Module, passes: list[str]
) -> None:
    run(probe(), encoder)
    assert passes == ["test", "train"]
    passes.clear()
    run(probe(train_view=crop_and_flip(16)), encoder)
    assert passes == ["test", "train", "train", "train", "train"]


def test_taps_side_by_side_are_trained_as_alone(encoder: nn.Module) -> None:
    both = run(probe(representation=Representation(("layer2", "pre_logits"))), encoder)
    for tap in ("layer2", "pre_logits"):
        alone = run(probe(representation=Representation((tap,))), encoder)
        assert {name: both[f"{name}@{tap}"] for name in alone} == alone
    assert both["top1"] == both["top1@pre_logits"]


def test_other_data_and_shares_of_labels_are_judged_on(encoder: nn.Module) -> None:
    seen: list[Any] = []

    def opened(split: str, variant: str | None = None, data: str | None = None) -> Source:
        seen.append((split, data))
        return open_shapes(split, variant, data)

    other = f"{DATA}&labels=texture"
    results = probe(data=EvalData(source=other, labels=0.5)).run(
        encoder, opened, EvalContext("cpu"), seed=0
    )
    assert seen == [("train", other), ("test", other)]
    assert 0 <= results["top1"] <= 100


@pytest.mark.parametrize(
    "recipe", [MlpProbe(hidden=8), LinearProbe(other_lrs=(1.0,))], ids=["mlp", "linear"]
)
def test_a_step_reads_nothing_from_the_device(recipe: MlpProbe | LinearProbe) -> None:
    # Tensors on the meta device have no values to wait for.
    device = torch.device("meta")
    labels = torch.empty(5, dtype=torch.int64, device=device)
    head: Any = recipe.init(4, 7, rng_key=0).to(device)
    for first in (0, 5):
        losses = recipe.step(head, torch.empty(5, 7, device=device), labels, first, 0, 0)
        assert losses.device == device


def test_the_protocol_of_the_command_line_is_the_papers() -> None:
    assert named_protocol("mlp") == MlpProbe()
    assert named_protocol("mlp", 32) == replace(MlpProbe(), test_view=center(32, 32))
    assert (MlpProbe.lr, MlpProbe.batch, MlpProbe.epochs) == (0.01, 512, 180)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"hidden": 0}, "`hidden` must be at least 1, got 0"),
        ({"lr": -1.0}, "`lr` must be positive, got -1.0"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, r"`momentum` must be in \[0, 1\), got -0.1"),
        ({"penalty": -1.0}, "`penalty` must be 0 or more, got -1.0"),
    ],
)
def test_settings_that_mean_nothing_end_with_a_sentence(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        probe(**settings)


def test_a_diverging_probe_ends_with_a_sentence(encoder: nn.Module) -> None:
    with pytest.raises(UserError, match=r"the MLP probe's weights are not finite.*lower lr"):
        run(probe(lr=1e30), encoder)


def _two() -> dict[str, float]:
    built = ResNetRecipe("small_resnet8", width=0.5).build(rng_key=0)
    return run(probe(), built)


def test_two_processes_measure_what_one_measures() -> None:
    for found in run_processes(_two, 2):
        assert found["train_loss"] == pytest.approx(_two()["train_loss"], rel=1e-4)
        assert found["top1"] == pytest.approx(_two()["top1"], abs=100 / 48 + 1e-6)
