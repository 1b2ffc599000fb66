"""The recipe of the transformation, shared by all methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from retable.domains import Count, Interval, NonNegative
from retable.methods.method import Progress
from retable.random import BETA_PARAMETERS
from retable.settings import validate_fields

BetaParameter = Annotated[float, Interval(*BETA_PARAMETERS)]
Level = Literal["batch", "sample", "dimension"]


@dataclass(frozen=True)
class TransformRecipe:
    """Transformation of features between the projection head and the loss.

    The defaults are those of the paper's final runs: both transformations from the first step,
    one weight for all rows (supplement, sections D.2 and F.2; official code for the granularity).

    Attributes:
        positives: "extrapolate" moves the two features of a positive pair apart; "none".
        negatives: "interpolate" or "extrapolate" each negative with another one, "hard" mixes it
            with the query (supplement, section G), "none".
        alpha_ex: positive and negative extrapolation weigh by 1 + Beta(alpha_ex, alpha_ex), 2.0
            (supplement, section B.4).
        alpha_in: negative interpolation weighs by Beta(alpha_in, alpha_in), 1.6 (supplement,
            section B.4).
        hard_beta: hard negatives weigh by Beta(a, b): (2, 1) or (5, 2) (supplement, table 7).
        hard_weight_on: the part of a hard negative with that weight. Equation 2 says the query;
            then even a perfect positive scores below the mean negative at temperature 0.07, so
            "negative" offers the other reading.
        level: granularity of the weights. "batch": one for all rows; "sample": one for each row;
            "dimension": one for each row and dimension (supplement, table 3, last row).
        draw_group: rows that share the draws of level "batch" and the permutation of the negatives:
            the official code draws for each GPU, so 64 queries on 4 GPUs and 32 on 8. None: the
            global batch.
        renormalise: whether transformed features are scaled to unit length; off in the final runs
            (supplement, section F.2).
        start_epoch: first epoch, from 0, that is transformed; may be fractional.
        score_against: whether negatives are scored against the "extrapolated" query (official
            code) or the "raw" one.
        single_target_elementwise: use level "dimension" where only one side is transformed, as the
            official code does for every setting.
    """

    positives: Literal["none", "extrapolate"] = "extrapolate"
    negatives: Literal["none", "interpolate", "extrapolate", "hard"] = "interpolate"
    alpha_ex: BetaParameter = 2.0
    alpha_in: BetaParameter = 1.6
    hard_beta: tuple[BetaParameter, BetaParameter] = (2.0, 1.0)
    hard_weight_on: Literal["query", "negative"] = "query"
    level: Level = "batch"
    draw_group: Count | None = None
    renormalise: bool = False
    start_epoch: NonNegative = 0.0
    score_against: Literal["extrapolated", "raw"] = "extrapolated"
    single_target_elementwise: bool = False

    def __post_init__(self) -> None:
        # The identity of a run is its recipe as text, where 0 and 0.0 differ.
        object.__setattr__(self, "start_epoch", float(self.start_epoch))
        validate_fields(self)

    @property
    def effective_level(self) -> Level:
        """The level of the draws, with `single_target_elementwise` taken into account."""
        single = (self.positives == "none") != (self.negatives == "none")
        return "dimension" if single and self.single_target_elementwise else self.level

    def active(self, progress: Progress) -> bool:
        """Return whether this step is transformed, by the recipe and its start epoch."""
        transforms = self.positives != "none" or self.negatives != "none"
        # Divided, not multiplied: 0.07 * 100 rounds to a number above 7.
        return transforms and progress.step / progress.steps_per_epoch >= self.start_epoch


UNTRANSFORMED = TransformRecipe(positives="none", negatives="none")
"""No transformation, the default of methods that other papers have proposed."""
