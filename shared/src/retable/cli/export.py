"""``retable export``: write an encoder for another program."""

from __future__ import annotations

import argparse
from pathlib import Path

from retable.cli.evaluate import CHECKPOINT
from retable.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("--layout", choices=("torchvision", "timm", "detectron2"), required=True)
    parser.add_argument("output", metavar="OUT", type=Path, help="a .safetensors or .pth file")


def run(options: argparse.Namespace) -> int:
    """Write the encoder of a checkpoint in another program's layout."""
    from retable.outputs import check_output_file
    from retable.weights import assumption, load_encoder, save_export

    check_output_file(options.output, "OUT")
    encoder, recipe, metadata = load_encoder(options.checkpoint)
    save_export(options.output, encoder, recipe, options.layout)
    print(printable(f"{options.output}: {recipe.label} in the {options.layout} layout"))
    if assumed := assumption(metadata):
        print(assumed)
    return 0
