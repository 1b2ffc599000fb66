"""Measure torchvision's published classifiers on textures alone.

python -m nonsemantic_negatives.zoo WEIGHTS --data imagefolder:/imagenet --textures /textures/val
measures every classifier of the folder WEIGHTS, prints a table, and writes ``zoo.json`` and a
picture. The same command continues after an interruption.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nonsemantic_negatives.zoo import pictures
from nonsemantic_negatives.zoo.checkpoints import Checkpoint, find_checkpoints
from nonsemantic_negatives.zoo.textures_alone import (
    FEW,
    MANY,
    TextureAccuracy,
    texture_accuracy,
)
from retable import files
from retable.data.source import TEST
from retable.domains import Parser, SmallOrZero, integer
from retable.evaluate.data import source_opener
from retable.evaluate.ood_sets import OodSet
from retable.evaluate.protocol import EvalContext
from retable.exit_status import run_resumable
from retable.outputs import check_output_folder
from retable.plots import drawing
from retable.progress import bar
from retable.settings import to_plain
from retable.weights.weights_files import file_digest

RESULTS, PICTURE = "zoo.json", "zoo.svg"
_OWNER = "zoo"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return a status of `retable.exit_status`."""
    return run_resumable(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m nonsemantic_negatives.zoo",
        description="Measure torchvision's published classifiers on textures alone.",
    )
    add = parser.add_argument
    files_of = "files of torchvision's classifiers under the names of their downloads, or folders"
    add("weights", metavar="WEIGHTS", nargs="+", type=Path, help=files_of)
    images = "ImageNet or a subset of it: imagefolder:DIR, hf:NAME or arrow:DIR"
    add("--data", required=True, help=images)
    add("--textures", metavar="DIR", required=True, help="textures of its validation images")
    entry = "which weights of a folder's networks; default: %(default)s"
    add("--version", metavar="NAME", default="IMAGENET1K_V1", help=entry)
    add("--classes-of", metavar="MODEL", default="resnet50", help="default: %(default)s")
    add("--out", metavar="DIR", type=Path, default=Path("zoo"), help="default: %(default)s")
    add("--device", default="cpu", help="cpu, cuda or cuda:N; default: %(default)s")
    add("--workers", type=integer(SmallOrZero), default=0, help="decoding processes; default: 0")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def _run(options: Namespace) -> int:
    checkpoints = find_checkpoints(options.weights, options.version)
    check_output_folder(options.out, "--out")
    opened = source_opener(options.data)
    images = opened(TEST)
    textures = OodSet("texture", options.textures).open(opened, "", images)
    data = {"images": images.description, "textures": textures.parts[""].description}
    context = EvalContext(options.device, workers=options.workers)
    found: dict[Checkpoint, TextureAccuracy] = {}
    results = options.out / RESULTS
    known = _read(results)
    for checkpoint in checkpoints:
        about = to_plain(data) | {"weights": file_digest(checkpoint.path)}
        line = known.get(checkpoint.path.name)
        if line is None or line["of"] != about:
            total = len(images) + len(textures.parts[""])
            with bar(total, "images", checkpoint.model, shown=not options.quiet) as shown:
                measured = texture_accuracy(
                    checkpoint, images, textures, context, on_progress=shown.update
                )
            line = {"of": about, "accuracy": to_plain(measured)}
            known[checkpoint.path.name] = line
            files.write_record(results, _OWNER, known)
        accuracy = line["accuracy"]
        found[checkpoint] = TextureAccuracy(
            accuracy["images"], accuracy["textures"], tuple(accuracy["by_class"])
        )
    print(as_table(found))
    print(f"\n{results}")
    if drawing.available():
        shown_one = next((one for one in found if one.model == options.classes_of), None)
        path = options.out / PICTURE
        drawing.save(pictures.draw(found, shown_one or next(iter(found))), path)
        print(path)
    return 0


def _read(path: Path) -> dict[str, Any]:
    """Return the lines of an earlier command by file name."""
    if not path.exists():
        return {}
    content: dict[str, Any] = files.read_record(path, _OWNER)
    return content


def as_table(found: Mapping[Checkpoint, TextureAccuracy]) -> str:
    """Format the accuracies, best on images first, and how images and textures go together."""
    lines = [
        f"{'network':20}{'images':>8}{'published':>11}{'textures':>10}"
        f"{f'below {FEW} %':>14}{f'above {MANY:.0f} %':>12}"
    ]
    for one in sorted(found, key=lambda one: -found[one].images):
        accuracy = found[one]
        lines.append(
            f"{one.model:20}{accuracy.images:8.1f}{one.published:11.1f}{accuracy.textures:10.1f}"
            f"{accuracy.hardly:14d}{accuracy.mostly:12d}"
        )
    others = [accuracy for one, accuracy in found.items() if one.family != "vgg"]
    if len(others) > 2:
        pairs = torch.tensor([[each.images, each.textures] for each in others]).double()
        correlation = torch.corrcoef(pairs.T)[0, 1].item()
        lines.append(f"\nCorrelation of the two over {len(others)} networks: {correlation:.2f}")
        if len(others) < len(found):
            lines[-1] += " (without VGG, as in the paper)"
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
