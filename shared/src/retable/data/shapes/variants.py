"""Out-of-distribution variants of the shapes data set."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from retable.data.shapes.corruptions import CORRUPTIONS, SEVERITIES
from retable.errors import UserError

STYLES = ("sketch", "texture_swapped", "recoloured", "silhouette", "texture_only")
"""Variants of the drawing:

- sketch: a black line along the outline on white;
- texture_swapped: the texture that goes with another class, a conflict of cues;
- recoloured: hues half way between those of the clean images;
- silhouette: the figure filled with black on white;
- texture_only: the object's texture fills the image, no outline is left.
"""

CONTROLS = ("clean", "background_only")
"""The distribution of training, and the same backgrounds with the object removed."""

OOD_VARIANTS = (
    *(f"corrupted:{kind}:{severity}" for kind in CORRUPTIONS for severity in SEVERITIES),
    *STYLES,
)
"""All variants that a classifier of clean images is tested on: 15 x 5 corruptions and 5 styles."""


@dataclass(frozen=True)
class Variant:
    """How images are drawn, and how they are corrupted afterwards."""

    style: str = "clean"
    corruption: str | None = None
    severity: int = 0


def parse_variant(name: str) -> Variant:
    """Parse the name of a variant."""
    if name in CONTROLS or name in STYLES:
        return Variant(name)
    if name in OOD_VARIANTS:
        _, kind, severity = name.split(":")
        return Variant(corruption=kind, severity=int(severity))
    nearest = get_close_matches(name, (*CONTROLS, *OOD_VARIANTS), 1)
    choice = f"did you mean {nearest[0]}" if nearest else f"choose from {', '.join(CONTROLS)}"
    raise UserError(
        f"shapes has no variant '{name}'; {choice}, one of {', '.join(STYLES)} or "
        "corrupted:<kind>:<severity 1 to 5>"
    )
