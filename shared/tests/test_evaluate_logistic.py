import importlib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retable import random
from retable.data.source import Source
from retable.distributed import process_count, process_index
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate.classifier import LinearClassifier, accuracy, accuracy_of
from retable.evaluate.data import EvalData, Splits, open_eval_splits, source_opener
from retable.evaluate.features import Features, represent
from retable.evaluate.frozen import freeze
from retable.evaluate.logistic.objective import Objective, penalty_rule
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.logistic.regression import LogisticRegression, fit_logistic
from retable.evaluate.protocol import EvalContext
from retable.evaluate.representation import Representation
from retable.testing import run_processes
from retable.views import center

DATA = "shapes?count=200&test_count=90&size=16&classes=4"
RULE = LogisticProbe(penalty="rule", iterations=800, view=center(16))


def problem(
    rng_key: int = 0, n: int = 120, dim: int = 7, classes: int = 4
) -> tuple[Tensor, Tensor]:
    labels = random.integers(rng_key, torch.arange(n), classes)
    labels[:classes] = torch.arange(classes)
    means = random.normal(rng_key + 1, torch.arange(classes * dim)).view(classes, dim)
    noise = random.normal(rng_key + 2, torch.arange(n * dim)).view(n, dim)
    scales = torch.logspace(-2, 2, dim)
    return ((means[labels] + noise) * scales + 3 * scales).double(), labels


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_the_optimum_is_that_of_scikit_learn(classes: int, standardise: bool, l2: float) -> None:
    # Reference: scikit-learn's LogisticRegression (newton-cg), after its StandardScaler.
    models: Any = importlib.import_module("sklearn.linear_model")
    preprocessing: Any = importlib.import_module("sklearn.preprocessing")
    features, labels = problem(classes=classes)
    if not standardise:
        features = features / features.std(0) - 1
    x = preprocessing.StandardScaler().fit_transform(features) if standardise else features.numpy()
    # scikit-learn's problem of two classes is another one: both rows of the softmax are penalised.
    strength = 1 / (len(labels) * l2) * (2 if classes == 2 else 1)
    reference = models.LogisticRegression(C=strength, solver="newton-cg", tol=1e-10, max_iter=1000)
    reference.fit(x, labels.numpy())
    ours = fit_logistic(
        features, labels, classes=classes, l2=l2, standardise=standardise, tolerance=1e-10
    )
    expected = torch.from_numpy(reference.predict_proba(x))
    torch.testing.assert_close(ours(features).softmax(1), expected, rtol=1e-5, atol=1e-6)


def test_with_the_rule_objective_and_predictions_are_those_of_scikit_learn() -> None:
    # Reference: scikit-learn's LogisticRegression (lbfgs), C = 1 / (n l2), on features as they are.
    models: Any = importlib.import_module("sklearn.linear_model")
    features, labels = problem(n=300, dim=12, classes=5)
    features = (features / features.std(0)).float()
    l2 = penalty_rule(12, 5)
    reference = models.LogisticRegression(C=1 / (300 * l2), tol=1e-7, max_iter=3000)
    reference.fit(features.double().numpy(), labels.numpy())
    theirs = LinearClassifier(
        *(torch.from_numpy(part) for part in (reference.coef_, reference.intercept_))
    )
    ours = fit_logistic(
        features,
        labels,
        classes=5,
        l2=l2,
        standardise=False,
        tolerance=1e-5,
        iterations=800,
    )
    objective = Objective(features.double(), labels, classes=5, l2=l2)
    expected, found = (float(objective(objective.point(one))[0]) for one in (theirs, ours))
    assert found == pytest.approx(expected, rel=1e-6)
    assert ours.objective == pytest.approx(expected, rel=1e-6)
    predictions = torch.from_numpy(reference.predict(features.double().numpy()))
    assert torch.equal(ours(features).argmax(1), predictions)


def test_at_the_optimum_mean_probabilities_are_the_frequencies_of_the_classes() -> None:
    # The bias is free, so that its gradient, their difference, is zero; the penalised weights of a
    # feature add to zero over the classes, since only their differences enter the loss.
    features, labels = problem()
    fitted = fit_logistic(features, labels, classes=4, l2=1e-2, tolerance=1e-8)
    frequencies = torch.bincount(labels, minlength=4).double() / len(labels)
    torch.testing.assert_close(fitted(features).softmax(1).mean(0), frequencies, rtol=0, atol=1e-8)
    scale = features.std(0, correction=0)
    assert float((fitted.weight * scale).sum(0).abs().max()) < 1e-5


def test_two_classes_that_mirror_each_other_have_opposite_weights_and_no_bias() -> None:
    # Separable: only the penalty keeps the weights finite.
    half = random.normal(3, torch.arange(60)).view(20, 3).double().abs() + 0.5
    features = torch.cat([half, -half])
    labels = torch.arange(40) // 20
    fitted = fit_logistic(features, labels, classes=2, l2=1e-3, standardise=False, tolerance=1e-9)
    torch.testing.assert_close(fitted.weight[0], -fitted.weight[1])
    assert float(fitted.bias.abs().max()) < 1e-6
    assert accuracy(fitted(features), labels)["top1"] == 100.0


def test_float32_features_lead_to_the_same_optimum() -> None:
    features, labels = problem()
    exact = fit_logistic(features, labels, classes=4, l2=1e-2, tolerance=1e-10)
    single = fit_logistic(features.float(), labels, classes=4, l2=1e-2)
    torch.testing.assert_close(
        single(features.float()).softmax(1), exact(features).softmax(1).float(), atol=1e-3, rtol=0
    )


def test_a_feature_that_does_not_vary_changes_nothing() -> None:
    features, labels = problem()
    constant = torch.cat([features, torch.full((len(features), 1), 0.1)], 1)
    without = fit_logistic(features, labels, classes=4, l2=1e-2, tolerance=1e-10)
    beside = fit_logistic(constant, labels, classes=4, l2=1e-2, tolerance=1e-10)
    torch.testing.assert_close(beside.weight[:, :-1], without.weight, rtol=1e-6, atol=1e-8)
    assert float(beside.weight[:, -1].abs().max()) < 1e-12


def test_standardising_divides_by_the_deviation_over_all_images() -> None:
    # Reference: torch.std_mean on the whole, in blocks of rows here: 2 ** 20 / F of them.
    n, dim = 70_000, 30
    features = random.normal(0, torch.arange(n * dim)).view(n, dim) * 3 + 1
    features[40_000:] += 5
    labels = random.integers(1, torch.arange(n), 2)
    scale, mean = torch.std_mean(features.double(), dim=0, correction=0)
    by_hand = ((features - mean) / scale).float()
    settings: dict[str, Any] = {"classes": 2, "l2": 0.1, "iterations": 2}
    ours = fit_logistic(features, labels, **settings)
    expected = fit_logistic(by_hand, labels, **settings, standardise=False)
    torch.testing.assert_close(ours(features), expected(by_hand), rtol=1e-4, atol=1e-5)


def test_a_warm_start_does_not_move_the_optimum() -> None:
    features, labels = problem()
    far = fit_logistic(features, labels, classes=4, l2=10.0)
    cold = fit_logistic(features, labels, classes=4, l2=1e-2, tolerance=1e-10)
    warm = fit_logistic(features, labels, classes=4, l2=1e-2, tolerance=1e-10, start=far)
    torch.testing.assert_close(warm(features), cold(features), rtol=1e-5, atol=1e-6)
    again = fit_logistic(features, labels, classes=4, l2=1e-2, tolerance=1e-8, start=cold)
    assert again.iterations == 0
    assert again.objective == pytest.approx(cold.objective, rel=1e-12)


def test_no_warning_comes_from_the_line_search() -> None:
    features, labels = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_logistic(features, labels, classes=4, l2=1e-8, iterations=3)


@pytest.mark.parametrize("classes", [3, 8])
def test_accuracy_in_pieces_is_accuracy(classes: int) -> None:
    features, labels = problem(classes=classes)
    classifier = LinearClassifier(
        random.normal(8, torch.arange(7 * classes)).view(classes, 7).double(),
        torch.zeros(classes).double(),
    )
    whole = accuracy(classifier(features), labels)
    assert accuracy_of(classifier, features, labels, rows=7) == whole
    assert 0 < whole["top1"] < 100


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"l2": ()}, r"`l2` must hold one or more positive penalties, got \(\)"),
        ({"l2": (0.0,)}, r"`l2` must be positive in each item, got \(0.0,\)"),
        ({"penalty_validation_share": 1.0}, r"must be in \(0, 1\), got 1.0"),
        ({"penalty": "lasso"}, "`penalty` must be one of 'sweep', 'rule', got 'lasso'"),
        (
            {"penalty": "rule", "l2": (0.1,)},
            "with penalty 'rule', got .*Leave one",
        ),
        ({"penalty": "rule", "strength": 0.0}, "`strength` must be positive, got 0.0"),
        (
            {"strength": 3.0},
            "with penalty 'sweep', got 3.0. Leave one",
        ),
    ],
)
def test_settings_that_mean_nothing_end_with_a_sentence(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        LogisticProbe(**settings)


open_shapes = source_opener(DATA)


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    return ResNetRecipe("small_resnet8", width=0.25).build(rng_key=0)


def features_of(
    encoder: nn.Module, split: str, data: EvalData | None = None, tap: str = "pre_logits"
) -> Features:
    splits = open_eval_splits(open_shapes, data or EvalData())
    source = splits.train if split == "train" else splits.test
    frozen = freeze(encoder, "cpu")
    return represent(frozen, source, center(16), Representation((tap,)), EvalContext("cpu"))[tap]


def fit_by_hand(train: Features, classes: int) -> LogisticRegression:
    """Fit with the paper's settings: scipy's defaults, but for the number of updates."""
    return fit_logistic(
        train.features,
        train.labels,
        classes=classes,
        l2=200 / (train.features.shape[1] * classes),
        standardise=False,
        iterations=800,
        tolerance=1e-5,
        decrease=2.0**-52 * 1e7,
    )


@pytest.mark.parametrize(
    "data",
    [
        EvalData(),
        EvalData(labels=0.3),
        EvalData(split="validation"),
        EvalData(f"{DATA}&labels=texture"),
    ],
)
def test_with_the_rule_features_are_fitted_as_they_are(data: EvalData, encoder: nn.Module) -> None:
    recipe = replace(RULE, data=data)
    splits = open_eval_splits(open_shapes, data)
    classifier, results = recipe.fit(encoder, splits, EvalContext("cpu"), seed=0)
    train, test = features_of(encoder, "train", data), features_of(encoder, "test", data)
    expected = fit_by_hand(train, splits.classes)
    assert torch.equal(classifier.weight, expected.weight)
    assert torch.equal(classifier.bias, expected.bias)
    assert results == {
        **accuracy(expected(test.features), test.labels),
        "train_top1": accuracy(expected(train.features), train.labels)["top1"],
        "l2": 200 / (train.features.shape[1] * splits.classes),
        "objective": expected.objective,
        "iterations": expected.iterations,
    }
    assert results == recipe.run(encoder, open_shapes, EvalContext("cpu"), seed=0)


def test_several_taps_in_one_pass_are_judged_as_each_alone(encoder: nn.Module) -> None:
    taps = ("layer1", "layer3", "pre_logits")
    together = replace(RULE, representation=Representation(taps))
    results = together.run(encoder, open_shapes, EvalContext("cpu"), seed=0)
    for tap in taps:
        alone = replace(RULE, representation=Representation((tap,)))
        for name, value in alone.run(encoder, open_shapes, EvalContext("cpu"), seed=0).items():
            assert results[f"{name}@{tap}"] == value
    assert results["top1"] == results["top1@pre_logits"]
    assert results["l2@layer1"] == 200 / (
        features_of(encoder, "train", None, "layer1").features[0].numel() * 4
    )
    assert results["l2@layer1"] != results["l2"]


def test_the_rules_strength_multiplies_the_penalty(encoder: nn.Module) -> None:
    weak = replace(RULE, strength=0.5).run(encoder, open_shapes, EvalContext("cpu"), seed=0)
    assert weak["l2"] == pytest.approx(0.005 * 200 / (16 * 4))
    full = RULE.run(encoder, open_shapes, EvalContext("cpu"), seed=0)
    assert weak["objective"] < full["objective"]


def test_standardising_with_the_rule_can_be_asked_for(encoder: nn.Module) -> None:
    asked = replace(RULE, standardise=True).run(encoder, open_shapes, EvalContext("cpu"), seed=0)
    default = RULE.run(encoder, open_shapes, EvalContext("cpu"), seed=0)
    assert asked["objective"] != default["objective"]
    sweep = LogisticProbe(l2=(0.1,), view=center(16))
    with_default, with_it, without = (
        replace(sweep, standardise=choice).run(encoder, open_shapes, EvalContext("cpu"), seed=0)
        for choice in (None, True, False)
    )
    assert with_default == with_it
    assert without["objective"] != with_it["objective"]


def test_the_penalty_of_a_sweep_is_chosen_on_images_that_were_held_out(encoder: nn.Module) -> None:
    # Reference: the choice in plain steps, from the strongest penalty data, then a fit to all.
    train, test = features_of(encoder, "train"), features_of(encoder, "test")
    order = random.permutation(random.derive_key(3, "logistic probe", "held out"), 200)
    held_out, rest = order[:50], order[50:]
    settings: dict[str, Any] = {"classes": 4, "tolerance": 1e-5, "decrease": 2.0**-52 * 1e7}
    start, scores = None, {}
    for l2 in (1.0, 0.1, 0.001):
        start = fit_logistic(
            train.features[rest], train.labels[rest], l2=l2, start=start, **settings
        )
        scores[l2] = accuracy(start(train.features[held_out]), train.labels[held_out])["top1"]
    chosen = max(scores, key=lambda l2: (scores[l2], l2))
    expected = fit_logistic(train.features, train.labels, l2=chosen, **settings)
    probe = LogisticProbe(l2=(0.001, 1.0, 0.1), penalty_validation_share=0.25, view=center(16))
    results = probe.run(encoder, open_shapes, EvalContext("cpu"), seed=3)
    assert results["l2"] == chosen
    assert results["objective"] == expected.objective
    assert results["top1"] == accuracy(expected(test.features), test.labels)["top1"]


def test_a_finished_probe_is_read_and_not_fitted_again(
    encoder: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = open_eval_splits(open_shapes, EvalData())
    context = EvalContext("cpu", tmp_path)
    recipe = replace(RULE, representation=Representation(("layer3", "pre_logits")))
    first, results = recipe.fit(encoder, splits, context, seed=0)
    monkeypatch.delattr("retable.evaluate.logistic.probe.represent")
    again, same = recipe.fit(encoder, splits, context, seed=0)
    assert same == results
    assert torch.equal(again.weight, first.weight)
    assert torch.equal(again.bias, first.bias)
    with pytest.raises(UserError, match="another recipe"):
        replace(recipe, iterations=7).fit(encoder, splits, context, seed=0)


def _own_rows(n: int) -> slice:
    """Return unequal parts: of two processes the first has a third; of one, all."""
    if process_count() == 1:
        return slice(n)
    return slice(n // 3) if process_index() == 0 else slice(n // 3, n)


def _fit_and_probe(folder: Path) -> dict[str, Any]:
    features, labels = problem(n=301, dim=12, classes=5)
    own = _own_rows(301)
    ones = LinearClassifier(torch.ones(5, 12), torch.ones(5))
    fitted = {
        str(dtype): fit_logistic(
            features[own].to(dtype),
            labels[own],
            classes=5,
            l2=0.01,
            tolerance=1e-5 if start else 1e-9,
            start=start,
            images=301,
        )
        for dtype, start in ((torch.float32, ones), (torch.float64, None))
    }
    encoder = ResNetRecipe("small_resnet8", width=0.25).build(rng_key=0)
    taps = Representation(("layer3", "pre_logits"))
    kept = EvalContext("cpu", features=folder)
    rule = replace(RULE, representation=taps, data=EvalData(labels=0.4))
    sweep = LogisticProbe(l2=(1.0, 0.1, 0.01), view=center(16), tolerance=1e-6, decrease=0.0)
    found = {
        "rule": rule.fit(
            encoder, open_eval_splits(open_shapes, rule.data), EvalContext("cpu"), seed=1
        ),
        "rule, kept": rule.fit(encoder, open_eval_splits(open_shapes, rule.data), kept, seed=1),
        "sweep": sweep.fit(encoder, open_eval_splits(open_shapes, sweep.data), kept, seed=1),
    }
    return {"fitted": fitted, "found": found}


def test_rows_spread_over_two_processes_are_fitted_as_in_one(tmp_path: Path) -> None:
    alone = _fit_and_probe(tmp_path / "one")
    first, second = run_processes(_fit_and_probe, 2, tmp_path / "two")
    for name, expected in alone["fitted"].items():
        ours, theirs = first["fitted"][name], second["fitted"][name]
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)
        assert (ours.objective, ours.iterations) == (theirs.objective, theirs.iterations)
        exact = "float64" in name
        assert ours.objective == pytest.approx(expected.objective, rel=1e-12 if exact else 1e-5)
        if exact:
            torch.testing.assert_close(ours.weight, expected.weight, rtol=1e-5, atol=1e-7)
    for name, (expected, results) in alone["found"].items():
        (ours, our_results), (theirs, their_results) = first["found"][name], second["found"][name]
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)
        assert our_results == their_results
        assert our_results["objective"] == pytest.approx(results["objective"], rel=1e-6)
        assert our_results["l2"] == results["l2"]
        assert our_results["top1"] == pytest.approx(results["top1"], abs=100 / 90 + 1e-6)
        torch.testing.assert_close(ours.weight, expected.weight, rtol=0, atol=2e-2)


def test_a_feature_that_varies_by_rounding_alone_is_not_blown_up() -> None:
    features, labels = problem()
    noise = random.normal(7, torch.arange(len(features))).to(features)[:, None]
    beside = torch.cat([features, 0.1 + 1e-9 * noise], 1)
    fitted = fit_logistic(beside, labels, classes=4, l2=1e-2, tolerance=1e-10)
    assert float(fitted.weight[:, -1].abs().max()) < 1e-5


def test_of_penalties_that_are_equally_good_the_larger_is_chosen() -> None:
    labels = torch.arange(80) % 4
    features = Features(torch.eye(4)[labels], labels)  # each class has a feature of its own
    probe = LogisticProbe(l2=(0.001, 0.1, 0.01))
    source = Source(labels, list("abcd"))
    assert probe._choose(features, Splits(source, source, 4), seed=0) == 0.1


def test_a_penalty_for_summed_losses_is_divided_by_the_number_of_images() -> None:
    # Reference: scikit-learn, whose C = 1 / penalty multiplies the sum.
    features, labels = problem()
    features = features / features.std(0) - 1
    models: Any = importlib.import_module("sklearn.linear_model")
    reference = models.LogisticRegression(C=1 / 3.0, solver="newton-cg", tol=1e-10, max_iter=1000)
    reference.fit(features.numpy(), labels.numpy())
    probe = LogisticProbe(l2=(3.0,), summed=True, standardise=False, decrease=0.0, tolerance=1e-10)
    ours = probe._fit(Features(features, labels), len(labels), 4, 3.0, None)
    expected = torch.from_numpy(reference.coef_)
    torch.testing.assert_close(ours.weight, expected, rtol=0, atol=1e-5)


def test_the_images_that_a_data_set_names_choose_the_penalty_by_what_it_reports() -> None:
    # Of the three named images two are of class 0. With the strong penalty all count as class 0:
    # two of three are right, but one class of two.
    labels = torch.tensor([0] * 40 + [1] * 4 + [0, 0, 1])
    noise = random.normal(3, torch.arange(len(labels)))
    features = Features(torch.stack([labels + 0.01 * noise, noise], 1), labels)
    source = Source(labels, ["a", "b"])
    source.validation = torch.tensor([44, 45, 46])
    probe = LogisticProbe(l2=(10.0, 1e-4), standardise=False)
    splits = Splits(source, source, 2)
    assert probe._held_out(source, 0)[0].tolist() == [44, 45, 46]
    assert sorted(probe._held_out(source, 0)[1].tolist()) == list(range(44))
    weak = probe._fit(Features(features.features[:44], labels[:44]), 44, 2, 10.0, None)
    found = accuracy(weak(features.features[44:]), labels[44:])
    assert found["top1"] == pytest.approx(200 / 3)
    assert found["mean_per_class"] == 50.0
    assert probe._choose(features, splits, seed=0) == 1e-4
