"""Make the masks of a folder of images.

python -m relicv2.masks SOURCE TARGET makes TARGET/.../STEM.png of every image SOURCE/.../STEM.*,
white in the foreground, so that ``imagefolder:SOURCE?mask=TARGET`` is a data set with masks. The
same command continues after an interruption.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from relicv2.masks.providers import Handcrafted, Learned, learned
from relicv2.saliency.handcrafted import require_libraries
from retable.data.derived import derivation_parser, run_derivation
from retable.domains import Parser, Pixels, integer
from retable.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return a status of `retable.exit_status`."""
    return run_derivation(_parser(), "mask", _maker, arguments)


def _parser() -> Parser:
    parser = derivation_parser("python -m relicv2.masks", "mask")
    add = parser.add_argument
    network = "network of `python -m relicv2.saliency`; default: the mean of four handcrafted maps"
    add("--network", type=Path, metavar="FILE", help=network)
    side = "longer side that images are reduced to before, in pixels; default: "
    side += f"{Handcrafted.side}, with a network that of its training"
    add("--side", type=integer(Pixels), help=side)
    plain = "do not refine the maps by a random field, which needs pydensecrf2 above 64 pixels"
    add("--plain", action="store_true", help=plain)
    return parser


def _maker(options: Namespace) -> Handcrafted | Learned:
    side = {} if options.side is None else {"side": options.side}
    if options.network is not None:
        return learned(options.network, field=not options.plain, **side)
    require_libraries()
    if options.device != "cpu":
        raise UserError(
            f"`--device` must be cpu for handcrafted maps, got {options.device}. Name a --network, "
            "or leave it out."
        )
    return Handcrafted(field=not options.plain, **side)


if __name__ == "__main__":
    sys.exit(main())
