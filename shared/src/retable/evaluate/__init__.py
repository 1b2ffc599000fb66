"""Protocols that evaluate an encoder: probes, neighbours, geometry, robustness, transfer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from retable.errors import UserError

if TYPE_CHECKING:
    from retable.evaluate.protocol import Evaluation
    from retable.views import ViewRecipe

Build = Callable[[int | None], "Evaluation"]
"""Returns an evaluation with its defaults for a side of the views in pixels, None: natural."""

_PROTOCOLS: dict[str, Build] = {}


def register_protocol(name: str, build: Build) -> None:
    """Register an evaluation, or replace one, for instance for ``retable evaluate --protocol``."""
    _PROTOCOLS[name] = build


def protocol_names() -> tuple[str, ...]:
    """Return the names of all registered protocols."""
    return tuple(_PROTOCOLS)


def named_protocol(name: str, size: int | None = None) -> Evaluation:
    """Return a protocol with its default settings.

    Args:
        name: one of `protocol_names`.
        size: side of the views in pixels. Images are resized to 8/7 of it and their centre is cut
            out, ImageNet's 256 for 224; below 96 px, where ImageNet's convention is not in use,
            they are resized to it. None: `retable.evaluate.data.natural_test_view`.
    """
    if name not in _PROTOCOLS:
        raise UserError(
            f"the protocol {name!r} is unknown: expected one of {', '.join(_PROTOCOLS)}."
        )
    return _PROTOCOLS[name](size)


def _centered(size: int | None) -> ViewRecipe | None:
    """Return the test view of a size that `named_protocol` describes."""
    from retable.views import center

    return None if size is None else center(size, round(size * 8 / 7) if size >= 96 else size)


def _cropped(size: int | None) -> ViewRecipe | None:
    from retable.views import crop_and_flip

    return None if size is None else crop_and_flip(size)


# The built-in protocols; each imports its module, and torch with it, when it is built.
def _linear(size: int | None) -> Evaluation:
    from retable.evaluate.linear import LinearProbe

    return LinearProbe(train_view=_cropped(size), test_view=_centered(size))


def _logistic(size: int | None) -> Evaluation:
    from retable.evaluate.logistic.probe import LogisticProbe

    return LogisticProbe(view=_centered(size))


def _mlp(size: int | None) -> Evaluation:
    from retable.evaluate.mlp import MlpProbe

    return MlpProbe(test_view=_centered(size))


def _knn(size: int | None) -> Evaluation:
    from retable.evaluate.knn import Knn

    return Knn(view=_centered(size))


def _geometry(size: int | None) -> Evaluation:
    from retable.evaluate.geometry import Geometry

    return Geometry(view=_centered(size))


def _ood(size: int | None) -> Evaluation:
    from retable.evaluate.logistic.probe import LogisticProbe
    from retable.evaluate.ood import OutOfDistribution

    return OutOfDistribution(probe=LogisticProbe(view=_centered(size)))


def _finetune(size: int | None) -> Evaluation:
    from retable.evaluate.transfer.finetune import FineTuning

    return FineTuning(train_view=_cropped(size), test_view=_centered(size))


_PROTOCOLS.update(
    linear=_linear,
    logistic=_logistic,
    mlp=_mlp,
    knn=_knn,
    geometry=_geometry,
    ood=_ood,
    finetune=_finetune,
)
