"""The fast linear probe: multinomial logistic regression on cached features by L-BFGS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retable import random
from retable.errors import UserError
from retable.evaluate.classifier import LinearClassifier, accuracy, check_labels
from retable.evaluate.evaluation import Splits, Where, natural_test_view, open_splits
from retable.evaluate.features import Features, extract
from retable.evaluate.frozen import FrozenEncoder, freeze
from retable.evaluate.resume import Checkpoints
from retable.progress import bar
from retable.views import ViewRecipe

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.evaluate.evaluation import OpenSource


class Objective:
    """Mean cross-entropy plus l2 / 2 |weight|^2, and its gradient, without autograd.

    Products are formed in the features' type for ``rows`` images at a time; losses and gradients
    are summed in float64, so that L-BFGS sees a smooth function.

    Args:
        features: (n, F).
        labels: (n,) int64.
        l2: strength; the bias is free.
        rows: images in a block.
    """

    def __init__(self, features: Tensor, labels: Tensor, l2: float, rows: int = 65536) -> None:
        self.features = features
        self.labels = labels
        self.l2 = l2
        self.rows = rows

    def __call__(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the value and its gradients at float64 weight (C, F) and bias (C,)."""
        n = len(self.labels)
        value = self.l2 / 2 * weight.square().sum()
        weight_gradient = self.l2 * weight
        bias_gradient = torch.zeros_like(bias)
        for x, y in self._blocks():
            logits = torch.addmm(bias.to(x.dtype), x, weight.T.to(x.dtype))
            log_probabilities = F.log_softmax(logits, dim=1)
            chosen = log_probabilities.gather(1, y[:, None])
            value = value - chosen.sum(dtype=torch.float64) / n
            error = log_probabilities.exp_()
            error.scatter_add_(1, y[:, None], error.new_full((len(y), 1), -1.0))
            weight_gradient += (error.T @ x).double() / n
            bias_gradient += error.sum(0, dtype=torch.float64) / n
        return value, weight_gradient, bias_gradient

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(
            torch.split(self.features, self.rows), torch.split(self.labels, self.rows), strict=True
        )


@torch.no_grad()
def minimise(
    objective: Objective, start: LinearClassifier, *, iterations: int, tolerance: float
) -> LinearClassifier:
    """Minimise by L-BFGS with strong Wolfe line search from ``start``; float64 weight and bias.

    Ends after ``iterations``, or when no entry of the gradient exceeds ``tolerance``.
    """
    weight, bias = start.weight.double().clone(), start.bias.double().clone()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        max_eval=2 * iterations,
        tolerance_grad=tolerance,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        value, weight.grad, bias.grad = objective(weight, bias)
        return value.item()

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return LinearClassifier(weight, bias)


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int,
    l2: float,
    standardise: bool = True,
    iterations: int = 500,
    tolerance: float = 1e-6,
    start: LinearClassifier | None = None,
) -> LinearClassifier:
    """Fit multinomial logistic regression: minimise mean cross-entropy + l2 / 2 |weight|^2.

    The same as scikit-learn's `LogisticRegression(C=1 / (n * l2))`.

    Args:
        features: (n, F); products are formed in their type.
        labels: (n,) int64 in [0, classes).
        classes: C.
        l2: strength of the penalty, on standardised features if ``standardise``.
        standardise: shift and scale every feature to mean 0 and variance 1 over the n images first;
            the classifier returned undoes it and takes features as they are.
        iterations: of L-BFGS at most.
        tolerance: ends when no entry of the gradient is larger.
        start: where to begin, a classifier of features as they are; None: at zero.

    Returns:
        A classifier in the features' type.

    >>> x, y = torch.eye(4), torch.tensor([0, 1, 2, 0])
    >>> fit_logistic(x, y, classes=3, l2=0.1).weight.shape
    torch.Size([3, 4])
    """
    dim = features.shape[1]
    mean, scale = torch.zeros(dim).to(features), torch.ones(dim).to(features)
    if standardise:
        scale, mean = torch.std_mean(features.double(), dim=0, correction=0)
        # A feature that does not vary carries nothing, and rounding must not be blown up.
        scale[scale <= 1e-6 * features.abs().amax(0)] = 1.0
        mean, scale = mean.to(features), scale.to(features)
    if start is None:
        start = LinearClassifier(torch.zeros(classes, dim).to(features), mean.new_zeros(classes))
    inside = LinearClassifier(start.weight * scale, start.bias + start.weight @ mean)
    objective = Objective((features - mean) / scale, labels, l2)
    fitted = minimise(objective, inside, iterations=iterations, tolerance=tolerance)
    weight = fitted.weight / scale.double()
    bias = fitted.bias - weight @ mean.double()
    return LinearClassifier(weight.to(features), bias.to(features))


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
            train=splits.train.description,
            test=splits.test.description,
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
