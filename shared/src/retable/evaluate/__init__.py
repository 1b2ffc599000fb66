"""Protocols that evaluate an encoder: probes, neighbours, geometry, robustness, transfer."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from retable.errors import UserError

if TYPE_CHECKING:
    from retable.evaluate.protocol import Evaluation

Build = Callable[[int | None], "Evaluation"]
"""Returns an evaluation with its defaults for a side of the views in pixels, None: natural."""


def register_protocol(name: str, build: Build) -> None:
    """Register an evaluation, or replace one, for instance for ``retable evaluate --protocol``."""
    _PROTOCOLS[name] = build


def protocol_names() -> tuple[str, ...]:
    """Return the names of all registered protocols."""
    return tuple(_PROTOCOLS)


def named_protocol(name: str, size: int | None = None) -> Evaluation:
    """Return one of `protocol_names` with its default settings.

    ``size`` is the side of the views in pixels (`retable.views.augmentations.tested_center`); None:
    `retable.evaluate.data.natural_test_view`.
    """
    if name not in _PROTOCOLS:
        raise UserError(
            f"the protocol {name!r} is unknown: expected one of {', '.join(_PROTOCOLS)}."
        )
    return _PROTOCOLS[name](size)


def _built_in(module: str, name: str, *, center: str, crop: str = "") -> Callable[..., Any]:
    """Return a builder that imports the module, and torch with it, when it is called.

    ``center`` and ``crop`` are the fields that hold the test view and the training view.
    """

    def build(size: int | None) -> Any:
        from retable.views.augmentations import crop_and_flip, tested_center

        views = {}
        if size is not None:
            views[center] = tested_center(size)
        if size is not None and crop:
            views[crop] = crop_and_flip(size)
        return getattr(import_module(f"retable.evaluate.{module}"), name)(**views)

    return build


_logistic = _built_in("logistic.probe", "LogisticProbe", center="view")


def _ood(size: int | None) -> Evaluation:
    from retable.evaluate.ood import OutOfDistribution

    return OutOfDistribution(probe=_logistic(size))


def _transfer(size: int | None) -> Evaluation:
    from retable.evaluate.transfer.classification import linear_transfer

    return linear_transfer() if size is None else linear_transfer(size)


def _detection(size: int | None) -> Evaluation:
    from retable.evaluate.transfer.detection.evaluation import DetectionTransfer
    from retable.evaluate.transfer.detection.inputs import InputRecipe

    return DetectionTransfer(inputs=InputRecipe() if size is None else InputRecipe.around(size))


def _segmentation(size: int | None) -> Evaluation:
    from retable.evaluate.transfer.segmentation.evaluation import SegmentationTransfer
    from retable.evaluate.transfer.segmentation.inputs import CropRecipe

    return SegmentationTransfer(crops=CropRecipe() if size is None else CropRecipe(size))


_PROTOCOLS: dict[str, Build] = {
    "linear": _built_in("linear", "LinearProbe", center="test_view", crop="train_view"),
    "logistic": _logistic,
    "mlp": _built_in("mlp", "MlpProbe", center="test_view"),
    "knn": _built_in("knn", "Knn", center="view"),
    "geometry": _built_in("geometry", "Geometry", center="view"),
    "ood": _ood,
    "finetune": _built_in("transfer.finetune", "FineTuning", center="test_view", crop="train_view"),
    "transfer": _transfer,
    "detection": _detection,
    "segmentation": _segmentation,
}
