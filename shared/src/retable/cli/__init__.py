"""The command line: judge a checkpoint, hand it to another program, draw what a run recorded.

One module a command, each with ``add_arguments(parser)`` and ``run(options) -> status``. Everything
that imports torch is imported inside ``run``: help and usage errors come at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from retable.cli import evaluate, export, plot
from retable.errors import UserError

_EXAMPLES = """examples:
  retable evaluate runs/moco-1/encoder.safetensors --protocol linear --data shapes
  retable evaluate moco_v2_200ep.pth.tar --protocol linear --data imagefolder:/data/imagenet \\
      --set lr=30 --set batch=256 --set epochs=100 --set 'milestones=[60,80]'
  retable evaluate torchvision:resnet50 --protocol knn --data hf:clane9/imagenet-100 --json
  retable export runs/moco-1/encoder.safetensors --layout detectron2 backbone.pth
  retable plot scores runs/moco-1 runs/moco-2 --epochs 0:10 --out scores.pdf
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 2 after a mistake of the user's (one sentence), 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except UserError as error:
        print(f"retable: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("retable: interrupted.", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retable",
        description="Judge self-supervised encoders, exchange their weights, draw their training.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module, summary in (
        ("evaluate", evaluate, "measure what an encoder's features hold"),
        ("export", export, "write an encoder for another program"),
        ("plot", plot, "draw what runs recorded"),
    ):
        command = commands.add_parser(name, help=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
