"""Command line: evaluate an encoder, export its weights, draw recorded runs, write tables.

Each command is a module with ``add_arguments(parser)`` and ``run(options) -> status``. ``run``
imports what needs torch, so that help and usage errors are printed at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from retable import __version__
from retable.cli import evaluate, export, new, plot, table
from retable.domains import Parser
from retable.exit_status import run_guarded
from retable.text import printable

_EXAMPLES = """examples:
  retable evaluate runs/moco-1/encoder.safetensors --protocol linear --data shapes
  retable evaluate moco_v2_200ep.pth.tar --protocol linear --data imagefolder:/data/imagenet \\
      --set lr=30 --set batch=256 --set epochs=100 --set 'milestones=[60,80]'
  retable evaluate torchvision:resnet50 --protocol knn --data hf:clane9/imagenet-100 --json
  retable export runs/moco-1/encoder.safetensors --layout detectron2 backbone.pth
  retable plot scores runs/moco-1 runs/moco-2 --epochs 0:10 --out scores.pdf
  retable table mochi-table1 --format latex --columns top1 --out table1.tex
  retable new table mochi/table9
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return a status of `retable.exit_status`."""

    def report(sentence: str) -> None:
        print(printable(f"retable: {sentence}"), file=sys.stderr)

    return run_guarded(lambda: _run(arguments), report, interrupted="retable: interrupted.")


def _run(arguments: Sequence[str] | None) -> int:
    parser = Parser(
        prog="retable",
        description="Evaluate self-supervised encoders, export their weights, draw their training, "
        "write compared tables and templates.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"retable {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module, summary in (
        ("evaluate", evaluate, "evaluate an encoder"),
        ("export", export, "write an encoder for another program"),
        ("plot", plot, "draw recorded scores and gradients"),
        ("table", table, "write a compared table as LaTeX, CSV or Markdown"),
        ("new", new, "write a template of a table that runs as it is"),
    ):
        command = commands.add_parser(name, help=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    status: int = options.run(options)
    return status
