"""MoCHi's recipe at the paper's scale.

Source: the slide deck of the first author for (N, s, s'). What MoCHi takes over from MoCo is in
`reproductions.baselines.recipes`.
"""

from __future__ import annotations

from mochi import MoCHiRecipe


def mochi(n_hard: int, s: int, s_prime: int, **changes: object) -> MoCHiRecipe:
    """Return MoCHi (N, s, s') on ImageNet-100: mixing from epoch 10 on (unverified)."""
    return MoCHiRecipe(n_hard=n_hard, s=s, s_prime=s_prime, **changes)  # type: ignore[arg-type]
