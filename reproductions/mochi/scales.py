"""MoCHi's tables at proxy and smoke scale."""

from __future__ import annotations

from dataclasses import replace

from mochi import MoCHiRecipe
from reproductions.baselines.scales import shrink_moco, shrink_row
from retable.methods import MethodRecipe
from retable.reproduce.shrinking import PROXY, SMOKE, SmallScale
from retable.reproduce.table import TableRow


def proxy(row: TableRow) -> TableRow:
    """Shrink a row as the baselines; N : s : s' : K within a factor of two of the paper's.

    Mixing begins after 5 % of the epochs.
    """
    return shrink_row(row, PROXY, shrink_method)


def smoke(row: TableRow) -> TableRow:
    """Shrink a row to seconds: two epochs on 512 images, to check that the code runs."""
    return shrink_row(row, SMOKE, shrink_method)


def shrink_method(method: MethodRecipe, scale: SmallScale, epochs: int) -> MethodRecipe:
    """Return a method with MoCHi's sizes in proportion to its queue."""
    small = shrink_moco(method, scale, epochs)
    if not (isinstance(small, MoCHiRecipe) and isinstance(method, MoCHiRecipe)):
        return small
    # In proportion to the paper's largest queue, pools would have two negatives: N, s and s' may be
    # twice as large.
    share = max(small.queue / method.queue, 1 / 64)
    return replace(
        small,
        n_hard=round(method.n_hard * share),
        s=round(method.s * share),
        s_prime=round(method.s_prime * share),
        mixing_warmup_epochs=max(1, round(epochs * 0.05)),
        analysed_negatives=round(1024 * share),
    )
