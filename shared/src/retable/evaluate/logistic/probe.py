"""The fast linear probe: multinomial logistic regression on cached features by L-BFGS."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn

from retable import random
from retable.distributed import process_count, process_index
from retable.domains import Count, InnerShare, Name, NonNegative, Positive
from retable.errors import UserError
from retable.evaluate.classifier import LinearClassifier, accuracy_of
from retable.evaluate.data import EvalData, Splits, natural_test_view, open_eval_splits
from retable.evaluate.features import Features, represent
from retable.evaluate.frozen import FrozenEncoder, freeze
from retable.evaluate.logistic.objective import PENALTY_TIMES_WEIGHTS, penalty_rule
from retable.evaluate.logistic.regression import LogisticRegression, fit_logistic
from retable.evaluate.logistic.solvers import SCIPY_DECREASE
from retable.evaluate.protocol import ACCURACIES, EvalContext, Evaluation, MetricSpec
from retable.evaluate.representation import Representation
from retable.progress import bar
from retable.settings import validate_fields
from retable.views import ViewRecipe, center

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.evaluate.data import OpenSource

SWEEP = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True)
class LogisticProbe(Evaluation):
    """Test accuracy of logistic regression on features of un-augmented training images.

    It measures the same as `LinearProbe` in a fraction of the time, with other numbers: no
    augmentation, a unique optimum, no draws except for the held-out part. Several processes share
    the images, in the fit too.

    For Kolesnikov et al. (2019): penalty "rule", 800 iterations. They ran SciPy's L-BFGS-B; ours
    reaches the same optimum (`retable.evaluate.logistic.regression.fit_logistic`).

    For other data sets than the pretraining's see
    `retable.evaluate.transfer.classification.linear_transfer`.

    Attributes:
        l2: penalties to try; of several, the one best on held-out images is fitted again on all
            training images. Default: 1e-6 to 1 by factors of 10, in the manner of CLIP (Radford et
            al. 2021, A.3: a sweep of 1e-6 to 1e6 on the summed loss). Held out are the images that
            the data set names for it (`Source.validation`), or ``penalty_validation_share``; best
            is the accuracy that its papers report ("accuracy" of its description), or top-1.
        summed: whether ``l2`` is for the sum of the images' losses, as scikit-learn's 1 / C is, and
            not for their mean.
        penalty: "sweep" tries ``l2``; "rule" takes `penalty_rule` of each tap's features.
        strength: strength of that rule, 100 in the paper; small images, with fewer features and
            classes by a factor of hundreds, need a weaker one for the same penalty.
        penalty_validation_share: share of the training images that chooses among several penalties.
        standardise: see `fit_logistic`; None: with the sweep but not with the rule, which is stated
            for features as they are.
        iterations: most iterations of L-BFGS, for each penalty (CLIP: 1000).
        tolerance: see `fit_logistic`; default: SciPy's.
        decrease: see `fit_logistic`; default: SciPy's.
        view: view of training and test images; None: `natural_test_view`.
        representation: features, with a classifier for each of the taps.
    """

    l2: tuple[Positive, ...] = SWEEP
    summed: bool = False
    penalty: Literal["sweep", "rule"] = "sweep"
    strength: Positive = PENALTY_TIMES_WEIGHTS
    penalty_validation_share: InnerShare = 0.1
    standardise: bool | None = None
    iterations: Count = 500
    tolerance: NonNegative = 1e-5
    decrease: NonNegative = SCIPY_DECREASE
    view: ViewRecipe | None = None
    representation: Representation = field(default_factory=Representation)
    data: EvalData = field(default_factory=EvalData)
    name: Name = "logistic"

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate_fields(self)
        if not self.l2:
            raise UserError(f"`l2` must hold one or more positive penalties, got {self.l2}.")
        if self.penalty == "rule" and tuple(self.l2) != SWEEP:
            raise UserError(
                f"`l2` must be the default with penalty 'rule', got {self.l2}. Leave one of them "
                "out."
            )
        if self.penalty == "sweep" and self.strength != PENALTY_TIMES_WEIGHTS:
            raise UserError(
                f"`strength` must be the default with penalty 'sweep', got {self.strength}. Leave "
                "one of the two out."
            )

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Accuracies, penalty and fit, see `Representation.joined`."""
        specs = {
            **ACCURACIES,
            "train_top1": MetricSpec("Training top-1", "%", higher_is_better=True),
            "l2": MetricSpec("Penalty"),
            "objective": MetricSpec("Objective", higher_is_better=False),
            "iterations": MetricSpec("Iterations"),
        }
        return self.representation.joined(dict.fromkeys(self.representation.taps, specs))

    def shrunk(self, epochs: int, size: int = 32) -> Self:
        """Return the probe at ``size`` pixels."""
        return replace(self, view=center(size, size))

    def test_view_of(self, *sources: Source) -> ViewRecipe:
        """Return the view of test images where these are the images of the evaluation."""
        return self.view or natural_test_view(*sources)

    def run(
        self, encoder: nn.Module, open_source: OpenSource, context: EvalContext, *, seed: int
    ) -> dict[str, float]:
        """Fit the classifiers and return `metrics`, see `Evaluation.run`."""
        _, results = self.fit(encoder, open_eval_splits(open_source, self.data), context, seed=seed)
        return results

    def fit(
        self, encoder: nn.Module, splits: Splits, context: EvalContext, *, seed: int
    ) -> tuple[LinearClassifier, dict[str, float]]:
        """Train as `run` does; return the classifier of the last tap too.

        A finished probe is kept in ``directory``; an interrupted one starts again, since it takes
        about as long as one pass over the images.
        """
        frozen = freeze(encoder, context.device, context.precision)
        splits.check_labels()
        checkpoints = self.checkpoints(frozen, splits, context, seed)
        saved = checkpoints.load(frozen.device)
        if saved:
            on_device = {name: value.to(frozen.device) for name, value in saved.tensors.items()}
            return LinearClassifier(**on_device), saved.facts
        train, test = self._represented(frozen, splits, context)
        metrics = {}
        for tap in self.representation.taps:
            classifier, metrics[tap] = self._fit_and_test(train[tap], test[tap], splits, seed)
        results = self.representation.joined(metrics)
        checkpoints.save(1, {"weight": classifier.weight, "bias": classifier.bias}, results)
        return classifier, results

    def _represented(
        self, frozen: FrozenEncoder, splits: Splits, context: EvalContext
    ) -> tuple[dict[str, Features], dict[str, Features]]:
        """Return a process's part of the features of training and test images, by tap.

        Of all training images where some of them choose the penalty.
        """
        images = len(splits.train) + len(splits.test)
        alone = process_count() == 1
        with bar(images, "images", self.name, shown=context.progress) as shown:
            compute = functools.partial(
                represent,
                frozen,
                view=self.test_view_of(splits.train, splits.test),
                representation=self.representation,
                context=context,
                on_progress=shown.update,
            )
            train = compute(splits.train, gathered=alone or self._chooses)
            test = compute(splits.test, gathered=alone)
        return train, test

    @property
    def _chooses(self) -> bool:
        return self.penalty == "sweep" and len(self.l2) > 1

    def _fit_and_test(
        self, train: Features, test: Features, splits: Splits, seed: int
    ) -> tuple[LinearClassifier, dict[str, float]]:
        if self._chooses:
            l2 = self._choose(train, splits, seed)
            train = Features(_own(train.features), _own(train.labels))
        elif self.penalty == "sweep":
            l2 = self.l2[0]
        else:
            l2 = penalty_rule(train.features.shape[1], splits.classes, self.strength)
        images = len(splits.train)
        classifier = self._fit(train, images, splits.classes, l2, None)
        fitted = accuracy_of(classifier, train.features, train.labels, images=images)
        results = accuracy_of(classifier, test.features, test.labels, images=len(splits.test))
        results |= {"train_top1": fitted["top1"], "l2": l2, "objective": classifier.objective}
        return classifier, results | {"iterations": float(classifier.iterations)}

    def _fit(
        self, part: Features, images: int, classes: int, l2: float, start: LinearClassifier | None
    ) -> LogisticRegression:
        standardise = self.penalty == "sweep" if self.standardise is None else self.standardise
        return fit_logistic(
            part.features,
            part.labels,
            classes=classes,
            l2=l2 / images if self.summed else l2,
            standardise=standardise,
            iterations=self.iterations,
            tolerance=self.tolerance,
            decrease=self.decrease,
            start=start,
            images=images,
        )

    def _choose(self, train: Features, splits: Splits, seed: int) -> float:
        """Return the penalty whose classifier is best on the held-out part; of equals, the larger.

        From the strongest penalty to the weakest, each beginning where the last one ended.
        """
        n = len(train.labels)
        if n < 2:
            raise UserError(
                f"`l2` must be one penalty where there are {n} training images, since none can be "
                f"held out to choose among {len(self.l2)}. Set for example l2=[1e-3]."
            )
        held_out, rest = self._held_out(splits.train, seed)
        chosen_by, part = _own_part(train, held_out), _own_part(train, rest)
        accuracy = splits.train.description.get("accuracy", "top1")
        classifier, best, chosen = None, -1.0, self.l2[0]
        for l2 in sorted(self.l2, reverse=True):
            classifier = self._fit(part, len(rest), splits.classes, l2, classifier)
            found = accuracy_of(
                classifier, chosen_by.features, chosen_by.labels, images=len(held_out)
            )
            if found[accuracy] > best:
                best, chosen = found[accuracy], l2
        return chosen

    def _held_out(self, source: Source, seed: int) -> tuple[Tensor, Tensor]:
        """Return the images that choose the penalty, and the others."""
        n = len(source)
        order = random.permutation(random.derive_key(seed, "logistic probe", "held out"), n)
        if (named := source.validation) is not None and 0 < len(named) < n:
            return named, order[~torch.isin(order, named)]
        cut = min(max(1, round(self.penalty_validation_share * n)), n - 1)
        return order[:cut], order[cut:]


def _own(rows: Tensor) -> Tensor:
    """Return this process's part of rows that all have."""
    return rows.tensor_split(process_count())[process_index()]


def _own_part(features: Features, rows: Tensor) -> Features:
    own = _own(rows).to(features.labels.device)
    return Features(features.features[own], features.labels[own])
