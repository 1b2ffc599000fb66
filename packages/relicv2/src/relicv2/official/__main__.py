"""Make an encoder file of a converted official checkpoint.

python -m relicv2.official CONVERTED ENCODER writes ENCODER, which ``retable evaluate`` and
``retable.weights.load_encoder`` read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from relicv2.official.reading import read_official
from retable.domains import Parser
from retable.exit_status import run_guarded
from retable.outputs import check_output_file
from retable.text import printable
from retable.weights import save_encoder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return a status of `retable.exit_status`."""
    description = "Make an encoder file of a converted official checkpoint of ReLICv2."
    parser = Parser(prog="python -m relicv2.official", description=description)
    parser.add_argument("converted", metavar="CONVERTED", type=Path, help="safetensors file")
    parser.add_argument("encoder", metavar="ENCODER", type=Path, help="encoder file to write")

    def convert() -> int:
        options = parser.parse_args(arguments)
        check_output_file(options.encoder, "ENCODER")
        encoder, recipe = read_official(options.converted)
        save_encoder(options.encoder, encoder, recipe, {"source": options.converted.name})
        print(printable(f"{recipe.label}: {options.encoder}"))
        return 0

    return run_guarded(convert)


if __name__ == "__main__":
    sys.exit(main())
