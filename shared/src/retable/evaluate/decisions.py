"""Decisions of a classifier on sets whose labels are categories of its classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from retable.data.imagenet_variants.corruptions import ALEXNET_ERRORS, KINDS, SEVERITIES
from retable.errors import UserError
from retable.nn.checks import Shaped, check_shapes


def category_accuracy(
    logits: Tensor, labels: Tensor, classes: Tensor, *, masked: bool = False
) -> float:
    """Return the share of images whose highest logit is that of a class of their category, in %.

    Args:
        logits: (n, C) scores of a classifier.
        labels: (n,) int64 categories of the images.
        classes: (G, C) bool, the classes that count as each category.
        masked: whether only classes that count as a category compete, as in the official
            evaluation of ImageNet-R, or all classes.
    """
    check_shapes(
        Shaped("logits", logits, "N C"),
        Shaped("labels", labels, "N", kind="whole"),
        Shaped("classes", classes, "G C", kind="mask"),
    )
    if masked:
        logits = logits.masked_fill(~classes.any(dim=0), -math.inf)
    hits = classes[labels, logits.argmax(dim=1)]
    return 100 * float(hits.double().mean())


def accuracy_by_category(logits: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """Return the share of right decisions among the images of each category, (G,) in %.

    The arguments are those of `category_accuracy`; NaN for a category without an image.
    """
    hits = classes[labels, logits.argmax(dim=1)].double()
    sums = hits.new_zeros(len(classes)).index_add_(0, labels, hits)
    return 100 * sums / torch.bincount(labels, minlength=len(classes))


def category_probabilities(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the mean probability (n, G) over the classes of each category.

    The mean and not the sum, so that a category of many classes has no advantage (Geirhos et al.,
    ICLR 2019, repository rgeirhos/texture-vs-shape).
    """
    check_shapes(Shaped("logits", logits, "N C"), Shaped("classes", classes, "G C", kind="mask"))
    members = classes.to(torch.float64)
    return logits.double().softmax(dim=1) @ (members / members.sum(dim=1, keepdim=True)).T


class CueDecisions(NamedTuple):
    """Shares of images with conflicting cues, in %; ``shape_bias`` is NaN if neither was decided.

    Attributes:
        shape: decided by the shape's category.
        texture: decided by that of the texture.
        shape_bias: share of the decisions by shape among both.
    """

    shape: float
    texture: float
    shape_bias: float


def cue_decisions(decisions: Tensor, shapes: Tensor, textures: Tensor) -> CueDecisions:
    """Count the decisions (n,) that agree with shapes (n,) or textures (n, G) bool."""
    check_shapes(
        Shaped("decisions", decisions, "N", kind="whole"),
        Shaped("shapes", shapes, "N", kind="whole"),
        Shaped("textures", textures, "N G", kind="mask"),
    )
    by_shape = decisions == shapes
    by_texture = textures.gather(1, decisions[:, None])[:, 0] & ~by_shape
    shape, texture = (100 * float(by.double().mean()) for by in (by_shape, by_texture))
    both = shape + texture
    return CueDecisions(shape, texture, 100 * shape / both if both else math.nan)


def mean_corruption_error(accuracies: Mapping[str, float]) -> float:
    """Return mCE in %, from top-1 accuracies in % by "KIND:SEVERITY": lower is better.

    The error of each kind, averaged over severities, is divided by AlexNet's, and the quotients are
    averaged over the 15 kinds (Hendrycks and Dietterich, ICLR 2019, section 4).

    Raises:
        UserError: a kind or severity is missing.
    """
    quotients = []
    for kind in KINDS:
        names = [f"{kind}:{severity}" for severity in SEVERITIES]
        if missing := [name for name in names if name not in accuracies]:
            raise UserError(
                f"`accuracies` must have all kinds and severities, but {missing[0]} is missing. "
                "Evaluate the whole set."
            )
        error = sum(100 - accuracies[name] for name in names) / len(names)
        quotients.append(error / ALEXNET_ERRORS[kind])
    return sum(quotients) / len(quotients)


def corruption_summary(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Return means of the accuracies by "KIND:SEVERITY": of all, by kind, by severity, and mCE."""
    by_kind = {
        kind: sum(accuracies[f"{kind}:{severity}"] for severity in SEVERITIES) / len(SEVERITIES)
        for kind in KINDS
    }
    by_severity = {
        f"severity_{severity}": sum(accuracies[f"{kind}:{severity}"] for kind in KINDS) / len(KINDS)
        for severity in SEVERITIES
    }
    return {
        "": sum(by_kind.values()) / len(by_kind),
        **by_kind,
        **by_severity,
        "mce": mean_corruption_error(accuracies),
    }
