"""One function for both back-ends of texture synthesis."""

from __future__ import annotations

from torch import Tensor

from nonsemantic_negatives.textures.quilting import Quilting, quilt
from nonsemantic_negatives.textures.stochastic import Stochastic, synthesize_stochastic

Backend = Quilting | Stochastic


def synthesize(
    exemplars: Tensor,
    size: int,
    rng_key: int,
    positions: Tensor | None = None,
    *,
    backend: Backend | None = None,
) -> Tensor:
    """Return textures whose every pixel is a pixel of an exemplar of the image.

    Args:
        exemplars: uint8 (B, E, C, e, e), for instance of `cut_exemplars`, on any device.
        size: side S of the textures in pixels; 224 in the paper.
        rng_key: random key of the data set. Equal keys give equal bits, whatever the batch, the
            device and the number of threads.
        positions: (B,) int64 numbers of the images in the data set; 0 to B - 1 if None.
        backend: `Quilting`, which is fast, or `Stochastic`, which follows the tool that the paper
            used; None: `Quilting` with its defaults.

    Returns:
        uint8 (B, C, S, S).
    """
    if isinstance(backend, Stochastic):
        return synthesize_stochastic(exemplars, size, rng_key, positions, settings=backend)
    return quilt(exemplars, size, rng_key, positions, sizes=backend)
