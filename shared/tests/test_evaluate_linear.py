from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retable import random
from retable.data.source import Source
from retable.errors import UserError
from retable.evaluate import features, head_training
from retable.evaluate.classifier import LinearClassifier, accuracy
from retable.evaluate.data import EvalData, EvalSubset, Splits, open_eval_splits
from retable.evaluate.linear import LinearProbe, ProbeState
from retable.evaluate.protocol import EvalContext
from retable.evaluate.representation import Representation
from retable.files import read_record
from retable.testing import StoppedError
from retable.train.optim import LARS
from retable.views import ViewRecipe, center, crop_and_flip, make_view


@dataclass(eq=False)
class Blobs(Source):
    """A source in memory: images of class c are noise around the c-th of a few patterns."""

    split: str
    count: int = 96
    classes: int = 6
    noise: float = 40.0
    variant: str | None = None
    labels: Tensor = field(init=False)
    skip_unreadable: bool = False
    unreadable: set[int] = field(default_factory=set)
    class_names: list[str] = field(init=False)
    description: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.labels = torch.arange(self.count) % self.classes
        self.class_names = [f"class {c}" for c in range(self.classes)]
        self.description = {
            "split": self.split,
            "count": self.count,
            "noise": self.noise,
            "checksum": f"{self.split} {self.count}",
        }

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> Tensor:
        return self.resident()[index]

    def resident(self, *, decode: bool = False) -> Tensor:
        shape = (3, 8, 8)
        patterns = random.uniform(1, torch.arange(self.classes * 192)).view(-1, *shape) * 200
        rng_key = random.derive_key(0, self.split, str(self.variant))
        noise = random.normal(rng_key, torch.arange(self.count * 192)).view(-1, *shape)
        return (patterns[self.labels] + self.noise * noise).clamp(0, 255).to(torch.uint8)


def open_blobs(split: str, variant: str | None = None, data: str | None = None) -> Blobs:
    return Blobs(split, variant=variant)


@pytest.fixture
def encoder() -> nn.Sequential:
    with random.initialising(0):
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        ).train()


def probe(**settings: Any) -> LinearProbe:
    defaults: dict[str, Any] = {
        "lr": 1.0,
        "batch": 20,
        "epochs": 4,
        "milestones": (2, 3),
        "train_view": crop_and_flip(8),
        "test_view": center(8),
    }
    return LinearProbe(**(defaults | settings))


def run(
    recipe: LinearProbe, encoder: nn.Sequential, directory: Path | None = None
) -> dict[str, float]:
    return recipe.run(encoder, open_blobs, EvalContext("cpu", directory), seed=0)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_equals_torch_sgd_on_a_linear_layer(nesterov: bool) -> None:
    # Reference: torch.optim.SGD and autograd through nn.Linear, float64.
    x = random.normal(0, torch.arange(5 * 24 * 7)).view(5, 24, 7).double()
    y = random.integers(1, torch.arange(5 * 24), 4).view(5, 24)
    state = ProbeState.initial(1, 4, 7, rng_key=2)
    state = ProbeState(**{name: value.double() for name, value in state.tensors().items()})
    recipe = LinearProbe(lr=0.7, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    layer = nn.Linear(7, 4).double()
    layer.load_state_dict({"weight": state.weight[0].clone(), "bias": state.bias[0].clone()})
    optimizer = torch.optim.SGD(
        layer.parameters(), lr=0.7, momentum=0.9, weight_decay=0.01, nesterov=nesterov
    )
    for inputs, labels in zip(x, y, strict=True):
        loss = F.cross_entropy(layer(inputs), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        ours = recipe.step(state, inputs, labels, 0, epoch=0, seed=0)
        torch.testing.assert_close(ours[0], loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(state.weight[0], layer.weight.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(state.bias[0], layer.bias.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_steps_equal_retables_lars_on_linear_layers(nesterov: bool) -> None:
    # Reference: `retable.train.optim.LARS`, which has references of its own; float64, three
    # learning rates of which each classifier has its own norms. The first bias is 0 and is not
    # adapted.
    x = random.normal(0, torch.arange(5 * 24 * 7)).view(5, 24, 7).double()
    y = random.integers(1, torch.arange(5 * 24), 4).view(5, 24)
    rates = (0.7, 3.0, 40.0)
    recipe = LinearProbe(
        lr=0.7, other_lrs=(3.0, 40.0), weight_decay=0.01, optimizer="lars", nesterov=nesterov
    )
    state = ProbeState.initial(3, 4, 7, rng_key=2)
    state = ProbeState(**{name: value.double() for name, value in state.tensors().items()})
    layers = [nn.Linear(7, 4).double() for _ in rates]
    for layer in layers:
        layer.load_state_dict({"weight": state.weight[0].clone(), "bias": state.bias[0].clone()})
    optimizers = [
        LARS(layer.parameters(), rate, weight_decay=0.01, nesterov=nesterov)
        for layer, rate in zip(layers, rates, strict=True)
    ]
    for inputs, labels in zip(x, y, strict=True):
        ours = recipe.step(state, inputs, labels, 0, epoch=0, seed=0)
        for number, (layer, optimizer) in enumerate(zip(layers, optimizers, strict=True)):
            loss = F.cross_entropy(layer(inputs), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            torch.testing.assert_close(ours[number], loss.detach(), rtol=1e-12, atol=0)
    for number, layer in enumerate(layers):
        for found, expected in (
            (state.weight[number], layer.weight),
            (state.bias[number], layer.bias),
        ):
            torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-14)


def test_learning_rates_side_by_side_do_not_influence_each_other(encoder: nn.Sequential) -> None:
    alone = run(probe(lr=0.3), encoder)
    beside = run(probe(lr=1.0, other_lrs=(0.3, 3.0)), encoder)
    assert beside["top1"] == pytest.approx(run(probe(lr=1.0), encoder)["top1"], abs=1.1)
    assert beside["top1@lr=0.3"] == pytest.approx(alone["top1"], abs=1.1)


def torch_sgd(layer: nn.Linear) -> torch.optim.Optimizer:
    return torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9)


COSINE = [60.0, 60.0 * (2 + 2**0.5) / 4, 30.0, 60.0 * (2 - 2**0.5) / 4]


@pytest.mark.parametrize(
    ("recipe", "rates", "build"),
    [
        (probe(), [1.0, 1.0, 0.1, 0.01], torch_sgd),
        (
            probe(lr=60.0, optimizer="lars", schedule="cosine", milestones=()),
            COSINE,
            lambda layer: LARS(layer.parameters(), 60.0),
        ),
    ],
    ids=["moco", "simsiam"],
)
def test_the_probe_equals_the_official_protocol_step_by_step(
    recipe: LinearProbe,
    rates: list[float],
    build: Callable[[nn.Linear], torch.optim.Optimizer],
    encoder: nn.Sequential,
) -> None:
    # Reference: MoCo's and SimSiam's loop written out: every shuffled batch goes through the
    # encoder in eval mode, one step of the optimizer follows; learning rate by epoch.
    encoder.eval()
    train, test = Blobs("train"), Blobs("test")
    weights = ProbeState.initial(1, 6, 64, random.derive_key(3, "linear probe", "weights"))
    layer = nn.Linear(64, 6)
    layer.load_state_dict({"weight": weights.weight[0], "bias": weights.bias[0]})
    optimizer = build(layer)
    for epoch, lr in enumerate(rates):
        optimizer.param_groups[0]["lr"] = lr
        order = random.permutation(random.derive_key(3, "linear probe", "order", epoch), 96)
        rng_key = random.derive_key(3, "linear probe", "views", epoch)
        for rows in torch.split(order, 20):
            views = make_view(train.resident()[rows], rows, crop_and_flip(8), rng_key)
            with torch.no_grad():
                embedded = encoder(views)
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(layer(embedded), train.labels[rows]))
            optimizer.step()
    ours, results = recipe.fit(encoder, Splits(train, test, 6), EvalContext("cpu"), seed=3)
    torch.testing.assert_close(ours.weight[0], layer.weight.detach(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        views = make_view(test.resident(), torch.arange(96), center(8), 0)
        expected = accuracy(layer(encoder(views)), test.labels)
    assert results["top1"] == pytest.approx(expected["top1"], abs=1.1)


def test_the_encoder_is_left_as_it_was(encoder: nn.Sequential) -> None:
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder[0].eval()
    modes = [module.training for module in encoder.modules()]
    run(probe(), encoder)
    assert [module.training for module in encoder.modules()] == modes
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_the_probe_learns_what_is_linear_in_the_features(encoder: nn.Sequential) -> None:
    results = run(probe(epochs=8, milestones=(6,), train_view=center(8)), encoder)
    assert results["top1"] > 90  # chance is 17
    assert results["top5"] >= results["top1"]
    assert results["best_top1"] >= results["top1"]
    assert 1 <= results["best_epoch"] <= 8


@pytest.mark.parametrize(
    "recipe",
    [probe(), probe(lr=60.0, optimizer="lars", schedule="cosine", milestones=())],
    ids=["sgd", "lars"],
)
def test_a_killed_probe_goes_on_and_ends_with_the_same_bits(
    recipe: LinearProbe, encoder: nn.Sequential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(recipe, encoder)
    calls: list[int] = []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(0)
        if len(calls) in (3, 6):
            raise StoppedError
        return features.represent(*args, **kwargs)

    monkeypatch.setattr(head_training, "represent", dying)
    for _ in range(2):
        with pytest.raises(StoppedError):
            run(recipe, encoder, directory=tmp_path)
    resumed = run(recipe, encoder, directory=tmp_path)
    assert resumed == whole
    calls.clear()
    assert run(recipe, encoder, directory=tmp_path) == whole
    assert not calls, "a finished probe computes nothing"
    assert len(list(tmp_path.glob("linear-*.pt"))) == 2


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    encoder: nn.Sequential, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(probe(), encoder, directory=tmp_path)
    newest = sorted(tmp_path.glob("linear-*.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1
    newest.write_bytes(bytes(content))
    assert run(probe(), encoder, directory=tmp_path) == whole
    assert f"{newest} is damaged" in capsys.readouterr().err
    newest.write_bytes(bytes(content[:100]))
    assert run(probe(), encoder, directory=tmp_path) == whole
    assert f"{newest} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["recipe", "seed", "encoder", "test"])
def test_a_checkpoint_of_something_else_is_refused_by_name(
    change: str, encoder: nn.Sequential, tmp_path: Path
) -> None:
    run(probe(), encoder, directory=tmp_path)
    recipe, seed = probe(lr=2.0 if change == "recipe" else 1.0), int(change == "seed")
    if change == "encoder":
        with torch.no_grad():
            next(encoder.parameters())[0] += 1
    noise = 41.0 if change == "test" else 40.0
    sources = {"train": Blobs("train"), "test": Blobs("test", noise=noise)}
    with pytest.raises(UserError, match=rf"made by another {change}\. Remove it"):
        recipe.run(
            encoder,
            lambda split, variant=None, data=None: sources[split],
            EvalContext("cpu", tmp_path),
            seed=seed,
        )


def test_a_diverging_probe_ends_with_a_sentence(encoder: nn.Sequential) -> None:
    with pytest.raises(UserError, match="lower lr"):
        run(probe(lr=1e38), encoder)


def test_features_that_are_not_finite_end_with_a_sentence(encoder: nn.Sequential) -> None:
    with torch.no_grad():
        next(encoder.parameters())[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        run(probe(), encoder)


def test_unlabelled_images_and_odd_classes_end_with_a_sentence(
    encoder: nn.Sequential,
) -> None:
    unlabelled = Blobs("test")
    unlabelled.labels = torch.full_like(unlabelled.labels, -1)
    sources = {"train": Blobs("train"), "test": unlabelled}
    with pytest.raises(UserError, match="labels from -1"):
        probe().run(
            encoder,
            lambda split, variant=None, data=None: sources[split],
            EvalContext("cpu"),
            seed=0,
        )
    sources["test"] = Blobs("test", classes=5)
    with pytest.raises(UserError, match="class 5"):
        probe().run(
            encoder,
            lambda split, variant=None, data=None: sources[split],
            EvalContext("cpu"),
            seed=0,
        )


@pytest.mark.parametrize("setting", ["lr", "batch", "epochs"])
def test_settings_that_mean_nothing_end_with_a_sentence(setting: str) -> None:
    with pytest.raises(UserError, match=f"`{setting}` must be (positive|at least 1), got 0"):
        probe(**{setting: 0})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"optimizer": "adam"}, "`optimizer` must be one of 'sgd', 'lars', got 'adam'"),
        ({"schedule": "linear"}, "`schedule` must be one of 'step', 'cosine', got 'linear'"),
        ({"nesterov": True, "momentum": 0.0}, "`momentum` must be positive with nesterov, got 0.0"),
        ({"schedule": "cosine"}, r"must be empty with the cosine schedule, got \(2, 3\)"),
    ],
)
def test_optimizers_and_schedules_that_are_unknown_or_contradictory_end_with_a_sentence(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        probe(**settings)


def test_accuracy_counts_the_label_among_the_likeliest() -> None:
    # Reference: by hand; row 0 ranks classes 6 5 4 3 2 1 0, row 1 the other way round.
    scores = torch.stack([torch.arange(7.0), -torch.arange(7.0)])
    for columns, labels, expected in (
        (7, [6, 0], (100.0, 100.0, 100.0)),
        (7, [2, 5], (0.0, 50.0, 0.0)),
        (3, [0, 2], (0.0, 100.0, 0.0)),
    ):
        found = accuracy(scores[:, :columns], torch.tensor(labels))
        assert found == dict(zip(("top1", "top5", "mean_per_class"), expected, strict=True))


def test_the_mean_over_classes_counts_each_class_that_has_images_once() -> None:
    # Three images of class 0, all right; two of class 2, one right; none of class 1.
    scores = torch.eye(3)[torch.tensor([0, 0, 0, 2, 1])]
    found = accuracy(scores, torch.tensor([0, 0, 0, 2, 2]))
    assert found["top1"] == 80.0
    assert found["mean_per_class"] == 75.0


def test_the_classifier_is_a_linear_layer() -> None:
    layer = nn.Linear(5, 3)
    x = random.normal(0, torch.arange(20)).view(4, 5)
    ours = LinearClassifier(layer.weight.detach(), layer.bias.detach())(x)
    torch.testing.assert_close(ours, layer(x).detach())


class Tapped(nn.Module):
    """An encoder with two layers to judge; counts the images that it is given, on all copies."""

    tap_names = ("pixels", "pre_logits")
    images = 0

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.taps(images, ("pre_logits",))["pre_logits"]

    def taps(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        type(self).images += len(images)
        found = {"pixels": images, "pre_logits": self.encoder(images)}
        return {name: found[name] for name in names}


@pytest.mark.parametrize("view", [crop_and_flip(8), center(8)], ids=["random", "fixed"])
def test_taps_side_by_side_are_trained_as_alone(view: ViewRecipe, encoder: nn.Sequential) -> None:
    tapped = Tapped(encoder)
    settings: dict[str, Any] = {"lr": 0.3, "other_lrs": (0.1,), "train_view": view}
    both = probe(**settings, representation=Representation(("pixels", "pre_logits"))).run(
        tapped, open_blobs, EvalContext("cpu"), seed=0
    )
    for tap in ("pixels", "pre_logits"):
        alone = probe(**settings, representation=Representation((tap,))).run(
            tapped, open_blobs, EvalContext("cpu"), seed=0
        )
        assert {name: both[f"{name}@{tap}"] for name in alone} == alone
    assert both["top1@lr=0.1"] == both["top1@lr=0.1@pre_logits"]
    assert both["top1"] == both["top1@pre_logits"]
    assert both["train_loss@pixels"] != both["train_loss@pre_logits"] == both["train_loss"]


def test_features_of_a_view_that_does_not_vary_are_computed_once(encoder: nn.Sequential) -> None:
    tapped, counts = Tapped(encoder), []
    for view in (center(8), crop_and_flip(8)):
        Tapped.images = 0
        probe(train_view=view).run(tapped, open_blobs, EvalContext("cpu"), seed=0)
        counts.append(Tapped.images)
    assert counts == [96 + 96, 96 + 4 * 96]


def test_kept_features_change_no_bit_of_what_is_learnt(
    encoder: nn.Sequential, tmp_path: Path
) -> None:
    def opened(split: str, variant: str | None = None, data: str | None = None) -> Blobs:
        blobs = Blobs(split)
        blobs.description["pixels"] = split
        return blobs

    tapped, recipe = Tapped(encoder), probe(train_view=center(8), data=EvalData(labels=0.5))
    results = []
    for _ in range(2):
        context = EvalContext("cpu", features=tmp_path)
        results.append(recipe.run(tapped, opened, context, seed=0))
    Tapped.images = 0
    results.append(recipe.run(tapped, opened, context, seed=0))
    assert Tapped.images == 0
    assert results[0] == results[1] == results[2]
    assert recipe.run(tapped, opened, EvalContext("cpu"), seed=0) == pytest.approx(
        results[0], abs=1.1
    )


def test_the_curve_tells_every_epoch_of_every_classifier(
    encoder: nn.Sequential, tmp_path: Path
) -> None:
    recipe = probe(other_lrs=(0.3,), representation=Representation(("pixels", "pre_logits")))
    results = recipe.run(Tapped(encoder), open_blobs, EvalContext("cpu", tmp_path), seed=0)
    curve = read_record(tmp_path / "curve.json")
    assert curve["epoch"] == [1, 2, 3, 4]
    names = ["pixels", "pixels@lr=0.3", "pre_logits", "pre_logits@lr=0.3"]
    for figure in ("top1", "top5", "train_loss"):
        assert sorted(curve[figure]) == names
        assert all(len(values) == 4 for values in curve[figure].values())
    for tap in ("pixels", "pre_logits"):
        assert curve["top1"][tap][-1] == results[f"top1@{tap}"]
        assert max(curve["top1"][tap]) == results[f"best_top1@{tap}"]
        assert curve["train_loss"][tap][-1] == results[f"train_loss@{tap}"]
        assert curve["top1"][f"{tap}@lr=0.3"][-1] == results[f"top1@lr=0.3@{tap}"]


def test_the_curve_of_a_killed_probe_is_that_of_a_whole_one(
    encoder: nn.Sequential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, measure, calls = probe(train_view=center(8)), head_training._measure, []
    run(recipe, encoder, tmp_path / "whole")

    def dying(*args: Any) -> Any:
        calls.append(0)
        if len(calls) == 3:
            raise StoppedError
        return measure(*args)

    monkeypatch.setattr(head_training, "_measure", dying)
    with pytest.raises(StoppedError):
        run(recipe, encoder, tmp_path / "killed")
    run(recipe, encoder, tmp_path / "killed")
    curves = [(tmp_path / name / "curve.json").read_bytes() for name in ("whole", "killed")]
    assert curves[0] == curves[1]


def test_a_rate_beside_the_first_may_diverge(encoder: nn.Sequential, tmp_path: Path) -> None:
    run(probe(other_lrs=(1e38,)), encoder, tmp_path)
    curve = read_record(tmp_path / "curve.json")
    assert None in curve["train_loss"]["pre_logits@lr=1e+38"]
    assert None not in curve["train_loss"]["pre_logits"]


def test_labels_that_are_left_out_teach_nothing(encoder: nn.Sequential) -> None:
    scrambled = Blobs("train")
    splits = open_eval_splits(open_blobs, EvalData(labels=0.5))
    assert isinstance(splits.train, EvalSubset)
    rest = torch.ones(96, dtype=torch.bool)
    rest[splits.train.indices] = False
    scrambled.labels[rest] = (scrambled.labels[rest] + 1) % 6
    recipe = probe(data=EvalData(labels=0.5))

    def opened(split: str, variant: str | None = None, data: str | None = None) -> Blobs:
        return scrambled if split == "train" else Blobs(split)

    assert recipe.run(encoder, opened, EvalContext("cpu"), seed=0) == run(recipe, encoder)


def test_a_probe_stopped_by_max_steps_sees_only_the_images_of_its_steps() -> None:
    probe = LinearProbe(batch=8, epochs=5, max_steps=2)
    splits = Splits(Blobs("train", count=64), Blobs("test", count=16), 6)
    shortened, epochs = probe.shortened(splits, seed=0)
    assert (len(shortened.train), epochs) == (16, 1)
    whole, epochs = replace(probe, max_steps=20).shortened(splits, seed=0)
    assert (len(whole.train), epochs) == (64, 3)


def test_the_training_loss_is_the_mean_over_images_also_of_a_shorter_batch(
    encoder: nn.Sequential,
) -> None:
    # At a rate of nearly 0 the classifier stays, and batches of 40, 40 and 16 are one of 96.
    losses = [
        run(probe(lr=1e-9, epochs=1, milestones=(), batch=batch), encoder)["train_loss"]
        for batch in (40, 96)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
