"""The fast linear probe: multinomial logistic regression on cached features by L-BFGS."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torch import nn

from retable import random
from retable.errors import UserError
from retable.evaluate.classifier import LinearClassifier, accuracy, check_labels
from retable.evaluate.evaluation import Splits, Where, described, natural_test_view, open_splits
from retable.evaluate.features import Features, extract
from retable.evaluate.frozen import FrozenEncoder, freeze
from retable.evaluate.logistic_regression import fit_logistic
from retable.evaluate.resume import Checkpoints
from retable.progress import bar
from retable.views import ViewRecipe

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.evaluate.evaluation import OpenSource


@dataclass(frozen=True)
class LogisticProbe:
    """Test accuracy of logistic regression on features of un-augmented training images.

    A measure of the same thing as `LinearProbe` in a fraction of the time, with other numbers: no
    augmentation, a unique optimum, nothing drawn (but the held-out part).

    Attributes:
        l2: penalties to try; of several, the one best on ``held_out`` is fitted again on all
            training images. Default: 1e-6 to 1 by factors of 10, in the manner of CLIP (Radford et
            al. 2021, A.3: a sweep of 1e-6 to 1e6 on the summed loss).
        held_out: share of the training images that chooses among several penalties.
        standardise: see `fit_logistic`.
        iterations: of L-BFGS at most, for each penalty (CLIP: 1000).
        tolerance: see `fit_logistic`.
        view: of training and test images alike; None: `natural_test_view`.
        name: what the result is filed under.
    """

    l2: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    held_out: float = 0.1
    standardise: bool = True
    iterations: int = 500
    tolerance: float = 1e-5
    view: ViewRecipe | None = None
    name: str = "logistic"

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if not self.l2 or min(self.l2) <= 0:
            raise UserError(
                f"the logistic probe's l2 is {self.l2}: expected one or more positive penalties."
            )
        if not 0 < self.held_out < 1:
            raise UserError(
                f"the logistic probe's held_out is {self.held_out}: expected a share between 0 and "
                "1."
            )

    def test_view_of(self, source: Source) -> ViewRecipe:
        """Return the view of test images."""
        return self.view or natural_test_view(source)

    def run(
        self,
        encoder: nn.Module | FrozenEncoder,
        open_source: OpenSource,
        where: Where,
        *,
        seed: int,
    ) -> dict[str, float]:
        """Return "top1", "top5" (test), "train_top1" in percent and "l2", see `Evaluation.run`."""
        _, results = self.fit(encoder, open_splits(open_source), where, seed=seed)
        return results

    def fit(
        self,
        encoder: nn.Module | FrozenEncoder,
        splits: Splits,
        where: Where,
        *,
        seed: int,
    ) -> tuple[LinearClassifier, dict[str, float]]:
        """Train as `run` does; return the classifier beside the numbers.

        A finished probe is kept in ``directory``; an interrupted one starts anew, since it takes
        about as long as one pass over the images.
        """
        frozen = freeze(encoder, where.device, where.precision)
        check_labels(splits.train.labels, splits.classes, "train")
        check_labels(splits.test.labels, splits.classes, "test")
        checkpoints = Checkpoints(
            where.directory,
            self.name,
            encoder=frozen.digest,
            recipe=asdict(self),
            seed=seed,
            precision=frozen.precision,
            **described(splits),
        )
        saved = checkpoints.load(frozen.device)
        if saved:
            on_device = {name: value.to(frozen.device) for name, value in saved.tensors.items()}
            return LinearClassifier(**on_device), saved.facts
        images = len(splits.train) + len(splits.test)
        view = self.test_view_of(splits.test)
        with bar(images, "images", self.name, shown=where.progress) as shown:
            train, test = (
                extract(
                    frozen,
                    source,
                    view,
                    device=where.device,
                    workers=where.workers,
                    on_batch=shown.update,
                )
                for source in (splits.train, splits.test)
            )
        classifier, results = self._judge(train, test, splits.classes, seed)
        checkpoints.save(1, dict(vars(classifier)), results)
        return classifier, results

    def _judge(
        self, train: Features, test: Features, classes: int, seed: int
    ) -> tuple[LinearClassifier, dict[str, float]]:
        l2 = self.l2[0] if len(self.l2) == 1 else self._choose(train, classes, seed)
        classifier = self._fit(train, classes, l2)
        fitted = accuracy(classifier(train.features), train.labels)
        results = accuracy(classifier(test.features), test.labels)
        return classifier, {**results, "train_top1": fitted["top1"], "l2": l2}

    def _fit(
        self, train: Features, classes: int, l2: float, start: LinearClassifier | None = None
    ) -> LinearClassifier:
        return fit_logistic(
            train.features,
            train.labels,
            classes=classes,
            l2=l2,
            standardise=self.standardise,
            iterations=self.iterations,
            tolerance=self.tolerance,
            start=start,
        )

    def _choose(self, train: Features, classes: int, seed: int) -> float:
        """Return the penalty whose classifier is best on the held-out part; of equals, the larger.

        From the strongest penalty to the weakest, each beginning where the last one ended.
        """
        n = len(train.labels)
        order = random.permutation(random.derive_key(seed, "logistic probe", "held out"), n)
        cut = min(max(1, round(self.held_out * n)), n - 1)
        held_out, rest = order[:cut].to(train.labels.device), order[cut:].to(train.labels.device)
        part = Features(train.features[rest], train.labels[rest])
        classifier, best, chosen = None, -1.0, self.l2[0]
        for l2 in sorted(self.l2, reverse=True):
            classifier = self._fit(part, classes, l2, classifier)
            score = accuracy(classifier(train.features[held_out]), train.labels[held_out])["top1"]
            if score > best:
                best, chosen = score, l2
        return chosen
