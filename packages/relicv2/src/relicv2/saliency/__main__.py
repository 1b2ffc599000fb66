"""Learn a saliency network from a folder of images, without labels.

python -m relicv2.saliency SOURCE TARGET --encoder CHECKPOINT draws images from SOURCE and makes
TARGET/network.safetensors, which ``python -m relicv2.masks --network`` makes masks with. The same
command continues after an interruption.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from relicv2.saliency.dense_crf import require_library
from relicv2.saliency.handcrafted import require_libraries
from relicv2.saliency.learning import LearningRecipe
from relicv2.saliency.stages import NETWORK, Learning
from retable.data.walk import images_of
from retable.devices import check_device
from retable.domains import SEED, Count, Parser, Pixels, integer
from retable.exit_status import run_resumable
from retable.files import lock_folder, remove_abandoned
from retable.outputs import check_output_folder
from retable.processes import available_cores
from retable.progress import bar
from retable.text import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return a status of `retable.exit_status`."""
    return run_resumable(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m relicv2.saliency",
        description="Learn a saliency network from a folder of images; run again to continue.",
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", type=Path, help="folder of images, at any depth")
    add("target", metavar="TARGET", type=Path, help="folder of the stages and of the network")
    encoder = "initial encoder: a checkpoint, or for example untrained:resnet50"
    add("--encoder", required=True, help=encoder)
    count, default = integer(Count), "default: %(default)s"
    recipe = LearningRecipe()
    add("--images", type=count, default=Learning.images, help=f"images that are drawn; {default}")
    add(
        "--side",
        type=integer(Pixels),
        default=Learning.side,
        help=f"their side in pixels; {default}",
    )
    add("--epochs", type=count, default=recipe.epochs, help=f"epochs of an iteration; {default}")
    add(
        "--lr",
        type=float,
        default=recipe.lr,
        help=f"learning rate of the first; {default}",
    )
    add("--fusion-epochs", type=count, default=recipe.fusion_epochs, help=default)
    add("--fusion-lr", type=float, default=recipe.fusion_lr, help=default)
    add("--batch", type=count, default=recipe.batch, help=default)
    add("--seed", type=integer(SEED), default=0, help=default)
    add("--workers", type=count, help="processes beside the network's; default: one for each core")
    add("--device", default="cpu", help=f"cpu, cuda or cuda:N; {default}")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def _learning(options: Namespace) -> Learning:
    require_libraries()
    require_library(options.side**2)
    check_device(options.device)
    names, _ = images_of(options.source)
    recipe = LearningRecipe(
        epochs=options.epochs,
        lr=options.lr,
        fusion_epochs=options.fusion_epochs,
        fusion_lr=options.fusion_lr,
        batch=options.batch,
        seed=options.seed,
    )
    return Learning(
        options.source,
        tuple(names),
        options.target,
        options.encoder,
        recipe,
        options.images,
        options.side,
        options.device,
        options.workers or available_cores(),
    )


def _run(options: Namespace) -> int:
    learning = _learning(options)
    learning.network()  # what is wrong with the encoder is said before hours of work
    check_output_folder(learning.target, "TARGET")
    with lock_folder(learning.target, "TARGET"):
        learning.claim_target()
        remove_abandoned(learning.target)
        return _continue(learning, quiet=options.quiet)


def _continue(learning: Learning, *, quiet: bool) -> int:
    """Make the stages that are not there."""
    waiting = [stage for stage in learning.stages() if not learning.is_made(*stage)]
    fused = learning.has_network() and not waiting
    steps = len(waiting) + (not fused)
    if steps:
        images = learning.read_images()
        with bar(steps, "stages", shown=not quiet) as progress:
            for stage in waiting:
                learning.make_maps(images, *stage)
                progress.update()
            if not fused:
                learning.make_network(images)
                progress.update()
    print(printable(f"{steps} stages made. The network: {learning.target / NETWORK}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
