"""Protocols that judge an encoder: probes, nearest neighbours, geometry, robustness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retable.errors import UserError

if TYPE_CHECKING:
    from retable.evaluate.protocol import Evaluation

PROTOCOL_NAMES = ("linear", "logistic", "mlp", "knn", "geometry", "ood")


def named_protocol(name: str, size: int | None = None) -> Evaluation:
    """Return a protocol with its default settings.

    Args:
        name: one of `PROTOCOL_NAMES`.
        size: side of the views in pixels. Images are resized to 8/7 of it and their centre is cut
            out, ImageNet's 256 for 224; below 96 px, where ImageNet's convention is not in use,
            they are resized to it. None: `retable.evaluate.protocol.natural_test_view`.

    Raises:
        UserError: the name is none of these.
    """
    from retable.evaluate.geometry import Geometry
    from retable.evaluate.knn import Knn
    from retable.evaluate.linear import LinearProbe
    from retable.evaluate.logistic.probe import LogisticProbe
    from retable.evaluate.mlp import MlpProbe
    from retable.evaluate.ood import OutOfDistribution
    from retable.views import center, crop_and_flip

    test = train = None
    if size is not None:
        test = center(size, round(size * 8 / 7) if size >= 96 else size)
        train = crop_and_flip(size)
    if name == "linear":
        return LinearProbe(train_view=train, test_view=test)
    if name == "logistic":
        return LogisticProbe(view=test)
    if name == "mlp":
        return MlpProbe(test_view=test)
    if name == "knn":
        return Knn(view=test)
    if name == "geometry":
        return Geometry(view=test)
    if name == "ood":
        return OutOfDistribution(probe=LogisticProbe(view=test))
    raise UserError(
        f"the protocol {name!r} is unknown: expected one of {', '.join(PROTOCOL_NAMES)}."
    )
