"""``retable evaluate``: evaluate an encoder by a protocol."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from retable.devices import check_device
from retable.domains import SEED, Pixels, SmallOrZero, integer
from retable.errors import UserError
from retable.extras import require
from retable.settings import parse_setting, with_field

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.encoders import EncoderRecipe
    from retable.evaluate.data import OpenSource
    from retable.evaluate.protocol import Evaluation

CHECKPOINT = (
    "a file of Retable, the folder of a run, a ResNet of another program (.safetensors, .pth, "
    ".pth.tar; FILE?padding=2&pool=none names what the file does not tell), torchvision:resnet50, "
    "or untrained:resnet50"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    from retable.evaluate import protocol_names
    from retable.precision import PRECISIONS

    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    protocols = f"{', '.join(protocol_names())}, or one that --import registers"
    add("--protocol", default="linear", help=f"{protocols}; default: %(default)s")
    add("--data", default="shapes", help="shapes, imagefolder:DIR, hf:NAME or arrow:DIR")
    ood = (
        "for the ood protocol: a published set of ImageNet in its folder, for instance "
        "sketch=/data/sketch; repeat it. NAME alone is the variant of shapes that stands for it"
    )
    add("--ood", metavar="NAME=DIR", action="append", default=[], help=ood)
    add("--subset", help="imagenet100, or a share of the images such as 10%%")
    default = "default: 224, or as the images are where all have one size below 224"
    add("--size", type=integer(Pixels), help=f"side of the views in pixels; {default}")
    change = "change a setting of the protocol, for instance lr=30 (JSON values)"
    add("--set", dest="settings", metavar="FIELD=VALUE", action="append", default=[], help=change)
    add("--seed", type=integer(SEED), default=0, help="default: %(default)s")
    add("--device", help="cpu, cuda or cuda:N; default: a GPU if there is one")
    precision = "of the encoder; default: %(default)s"
    add("--precision", choices=PRECISIONS, default="float32", help=precision)
    add("--workers", type=integer(SmallOrZero), default=0, help="decoding processes; default: 0")
    skip = "leave out and count unreadable images instead of refusing"
    add("--skip-unreadable", action="store_true", help=skip)
    add("--directory", type=Path, help="keep the state here, to go on after an interruption")
    keep = "keep features here, for other protocols and settings to read instead of computing"
    add("--features", type=Path, help=keep)
    first = "import a module first, which registers protocols or data sets of its own"
    add("--import", dest="modules", metavar="MODULE", action="append", default=[], help=first)
    dry = "print the protocol and what training the encoder takes, and run nothing"
    add("--dry-run", action="store_true", help=dry)
    add("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Evaluate a checkpoint by a protocol and print the metrics."""
    from retable.cli.evaluation_report import as_text, facts_of
    from retable.distributed import process_index
    from retable.evaluate import named_protocol
    from retable.evaluate.protocol import EvalContext
    from retable.files import remove_abandoned
    from retable.outputs import check_output_folder
    from retable.settings import to_plain
    from retable.text import printable
    from retable.weights import load_encoder

    for module in options.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"--import {module}: {error}. Install the module, or add its folder to PYTHONPATH."
            ) from error
    recipe = _with_sets(named_protocol(options.protocol, options.size), options.ood)
    for setting in options.settings:
        path, value = parse_setting(setting)
        recipe = with_field(recipe, path.split("."), value, path)
    for option in ("directory", "features"):
        if (folder := getattr(options, option)) is not None and not options.dry_run:
            check_output_folder(folder, f"--{option}")
            remove_abandoned(folder)
    device = _join(options.device)
    open_variant = _opener(options.data, options.subset, options.skip_unreadable)
    named, sources = recipe, _opened(recipe, open_variant)
    recipe = recipe.with_views(*sources.values())
    encoder, encoder_recipe, metadata = load_encoder(options.checkpoint)
    if options.dry_run:
        if process_index() == 0:
            print(_plan(recipe, encoder_recipe, sources, options.json))
        return 0
    results = recipe.run(
        encoder,
        open_variant,
        EvalContext(
            device,
            directory=options.directory,
            workers=options.workers,
            precision=options.precision,
            progress=not options.json,
            features=options.features,
            checkpoint=options.checkpoint,
        ),
        seed=options.seed,
    )
    if process_index() == 0:
        report = {
            "checkpoint": options.checkpoint,
            "encoder": {
                "name": encoder_recipe.label,
                "recipe": to_plain(encoder_recipe),
                "metadata": metadata,
            },
            "protocol": to_plain(recipe),
            "seed": options.seed,
            "precision": options.precision,
            "results": results,
            **facts_of(recipe, named, sources, open_variant, results),
        }
        text = json.dumps(report, sort_keys=True) if options.json else as_text(report)
        print(printable(text, kept="\n"))
    return 0


def _with_sets(recipe: Evaluation, texts: list[str]) -> Evaluation:
    """Return the evaluation with the sets that ``--ood`` names."""
    if not texts:
        return recipe
    from dataclasses import replace

    from retable.evaluate.ood import OutOfDistribution
    from retable.evaluate.ood_sets import parse_set

    if not isinstance(recipe, OutOfDistribution):
        raise UserError(
            f"`--ood` belongs to --protocol ood, got {recipe.name}. Leave out one of them."
        )
    sets = tuple(map(parse_set, texts))
    if len({one.name for one in sets}) < len(sets):
        raise UserError("`--ood` must name each set once. Leave out the repetition.")
    return replace(recipe, sets=sets)


def _opened(recipe: Evaluation, open_variant: OpenSource) -> dict[str, Source]:
    """Open the images that an evaluation learns from and is tested on, under "train" and "test"."""
    from retable.evaluate.data import open_eval_splits, open_test_split

    if "train" not in recipe.reads:
        return {"test": open_test_split(open_variant, recipe.data)}
    splits = open_eval_splits(open_variant, recipe.data)
    return {"train": splits.train, "test": splits.test}


def _plan(
    recipe: Evaluation, encoder: EncoderRecipe, sources: dict[str, Source], as_json: bool
) -> str:
    """Describe an evaluation without running it: its settings, images, steps and operations."""
    from retable.evaluate.data import natural_train_view
    from retable.reproduce.pricing import price_evaluation
    from retable.settings import to_plain

    cost = None
    used = {use: len(source) for use, source in sources.items()}
    if "train" in used:
        size = natural_train_view(*sources.values()).size
        cost = price_evaluation(recipe, encoder, used["train"], size)
    if as_json:
        training = None if cost is None else vars(cost)
        plan = {"protocol": to_plain(recipe), "images": used, "training": training}
        return json.dumps(plan, sort_keys=True)
    work = "the encoder is not trained" if cost is None else str(cost)
    images = ", ".join(f"{count:,} {split} images" for split, count in used.items())
    settings = json.dumps(to_plain(recipe), sort_keys=True)
    return f"{recipe.name}: {settings}\n{images}; {work}\nNothing was run."


def _opener(data: str, subset: str | None, skip_unreadable: bool) -> OpenSource:
    """Return a function that opens the data, and variants of the built-in data set."""
    from retable.evaluate.data import source_opener

    opened, own = source_opener(data, subset, skip_unreadable=skip_unreadable), data

    def open_variant(split: str, variant: str | None = None, data: str | None = None) -> Source:
        address = data or own
        if variant is not None and address.partition("?")[0] != "shapes":
            raise UserError(
                f"The data set {address!r} has no variant {variant!r}. Name published sets with "
                "--ood NAME=DIR, or use --data shapes."
            )
        return opened(split, variant, data)

    return open_variant


def _join(wanted: str | None) -> str:
    """Join the other processes of a launch, if there are any; return this process's device."""
    import torch

    from retable.variables import check_variables, world_size

    gpus = torch.cuda.device_count()
    check_variables(gpus=gpus)
    check_device(wanted)
    kind = (wanted or "").partition(":")[0]
    available = gpus if kind in ("", "cuda") else 0
    if world_size() > 1:
        require("accelerate", "train", "An evaluation in several processes")
        from accelerate.state import PartialState

        from retable.train.pretrain import PATIENCE

        cpu = kind == "cpu" or not available
        return str(PartialState(cpu=cpu, timeout=PATIENCE).device)
    return wanted or ("cuda" if available else "cpu")
