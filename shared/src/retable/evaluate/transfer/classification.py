"""Protocols of accuracy on other data sets: linear classifiers and fine-tuning, with their sweeps.

Settings are chosen on held-out images and used on all training images, test images are seen once.
Which accuracy counts, top-1 or the mean over classes, is a fact of the data set
(`retable.data.transfer.classification.sets`).
"""

from __future__ import annotations

from dataclasses import replace

from retable.evaluate.linear import LinearProbe
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.sweep import Grid, Sweep
from retable.evaluate.transfer.finetune import FineTuning
from retable.views import ViewRecipe, center, crop_and_flip

PENALTIES = tuple(10.0 ** (-6 + 11 * number / 44) for number in range(45))
"""Penalties of Kornblith et al. (arXiv:1805.08974), SimCLR and BYOL: 45 from 1e-6 to 1e5, at equal
ratios. That they are of the summed losses is how ssl-transfer (arXiv:2011.13377) reads them."""

RATES = (0.01, 0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 1.0, 2.0)
BATCHES = (128, 256, 512, 1024)
DECAYS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
EPOCHS = (20, 30, 60, 80, 100)
LONGER = (150, 200, 250)
"""Values of ReLICv2's sweep (arXiv:2201.05119, appendix D): their numbers are the paper's, the
values themselves are unverified. ``LONGER`` are further epochs of fine-tuning."""

_COMMON: Grid = (
    ("lr", RATES),
    ("batch", BATCHES),
    ("weight_decay", DECAYS),
    ("momentum", (0.9, 0.99)),
    ("nesterov", (False, True)),
)


def whole_image(size: int = 224) -> ViewRecipe:
    """Return the view of linear transfer: short side to ``size``, bicubic, then the centre.

    Kornblith et al., SimCLR and BYOL use it for training and test images, small ones too.
    """
    return replace(center(size, size), interpolation="bicubic")


def linear_transfer(size: int = 224, name: str = "transfer") -> LogisticProbe:
    """Return logistic regression by L-BFGS on features as they are (Kornblith et al.; SimCLR)."""
    return LogisticProbe(
        l2=PENALTIES, summed=True, standardise=False, view=whole_image(size), name=name
    )


def sgd_transfer(size: int = 224, candidates: int | None = 32, name: str = "linear") -> Sweep:
    """Return ReLICv2's linear classifiers by SGD: a cosine, the settings from its sweep.

    The paper's values make 8,640 combinations, half of them with a warm-up of 10 epochs; here
    ``candidates`` of the 4,320 without are drawn. The schedule is a decision.
    """
    view = whole_image(size)
    base = LinearProbe(train_view=view, test_view=view, schedule="cosine", milestones=())
    return Sweep(base, (*_COMMON, ("epochs", EPOCHS)), candidates, name=name)


def finetuning_transfer(
    size: int = 224, candidates: int | None = 16, name: str = "finetune"
) -> Sweep:
    """Return ReLICv2's fine-tuning: encoder and classifier at one rate, settings from its sweep.

    The paper's values make 13,824 combinations, of which ``candidates`` are drawn. Crops and flips
    in training, the short side to 8/7 of the size in testing, and batch norm in groups of
    128 images are decisions.
    """
    base = FineTuning(
        schedule="cosine",
        milestones=(),
        bn_group=min(BATCHES),
        train_view=replace(crop_and_flip(size), interpolation="bicubic"),
        test_view=replace(center(size, round(size * 8 / 7)), interpolation="bicubic"),
    )
    grid = (*_COMMON, ("epochs", EPOCHS + LONGER), ("warmup_epochs", (0.0, 10.0)))
    return Sweep(base, grid, candidates, name=name)
