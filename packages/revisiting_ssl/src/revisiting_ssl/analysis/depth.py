"""Features of the blocks of networks with and without skip connections."""

from __future__ import annotations

import math
from collections.abc import Mapping


def skip_gains(
    skip: Mapping[str, Mapping[int, float]], no_skip: Mapping[str, Mapping[int, float]]
) -> dict[str, float]:
    """Return the gain by skip connections at each tap, the mean over the seeds that both have.

    Taps without a common seed, or with a number that is not finite, are left out. The arguments
    map tap -> seed -> accuracy of the network with skip connections and of that without.

    >>> skip_gains({"block1": {0: 31.0, 1: 30.0}, "block2": {}}, {"block1": {0: 30.0}})
    {'block1': 1.0}
    """
    found = {}
    for tap, own in skip.items():
        seeds = own.keys() & no_skip.get(tap, {}).keys()
        gains = [own[seed] - no_skip[tap][seed] for seed in seeds]
        if gains and all(map(math.isfinite, gains)):
            found[tap] = math.fsum(gains) / len(gains)
    return found
