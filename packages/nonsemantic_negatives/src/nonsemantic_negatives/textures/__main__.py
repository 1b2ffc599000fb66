"""Make the texture twin of a folder of images.

python -m nonsemantic_negatives.textures SOURCE TARGET makes TARGET/.../STEM.png of every image
SOURCE/.../STEM.*, so that ``imagefolder:SOURCE?companion=TARGET`` is a data set with twins. The
same command continues after an interruption.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from nonsemantic_negatives.textures.quilting import Quilting
from nonsemantic_negatives.textures.stochastic import Stochastic
from nonsemantic_negatives.textures.twins import TwinRecipe
from retable.data.derived import derivation_parser, run_derivation
from retable.domains import SEED, Parser, Pixels, integer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return a status of `retable.exit_status`."""
    return run_derivation(_parser(), "twin", _recipe, arguments)


def _parser() -> Parser:
    parser = derivation_parser("python -m nonsemantic_negatives.textures", "twin")
    add = parser.add_argument
    backends = "quilting is fast; stochastic follows the tool of the paper; default: %(default)s"
    add("--backend", choices=("quilting", "stochastic"), default="quilting", help=backends)
    side = integer(Pixels)
    add("--size", type=side, default=224, help="side of a twin in pixels; default: %(default)s")
    patch = "side of the two patches in pixels of the image; default: %(default)s"
    add("--exemplar", type=side, default=96, help=patch)
    block = "side of quilting's blocks in pixels; default: 3/8 of the exemplar"
    add("--block", type=side, help=block)
    add("--seed", type=integer(SEED), default=0, help="default: %(default)s")
    return parser


def _recipe(options: Namespace) -> TwinRecipe:
    backend: Quilting | Stochastic = Stochastic()
    if options.backend == "quilting":
        block = options.block or max(2, options.exemplar * 3 // 8)
        backend = Quilting(block, max(1, block // 4))
    return TwinRecipe(options.size, options.exemplar, backend, options.seed)


if __name__ == "__main__":
    sys.exit(main())
