"""What the searches for small settings share: a training outside a table, a log, a command."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from retable.data.sources import open_source
from retable.methods.method import Method
from retable.settings import parse_setting, with_field
from retable.train.options import RunOptions
from retable.train.pretrain import make_accelerator, train
from retable.train.recipe import PretrainRecipe
from retable.train.runs import RunDirectory

Setting = TypeVar("Setting")


def train_once(recipe: PretrainRecipe, seed: int) -> tuple[Method, list[dict[str, float]]]:
    """Return the trained method and the means of each epoch; no file stays."""
    source = open_source(recipe.data, "train")
    with tempfile.TemporaryDirectory() as folder:
        directory, accelerator = RunDirectory(Path(folder) / "run"), make_accelerator("float32")
        options = RunOptions(Path(folder), quiet=True)
        training = train(recipe, seed, source, directory, accelerator, options)
        return training.method, training.summary()["epochs"]


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def search(
    parser: argparse.ArgumentParser,
    log: Path,
    setting: Setting,
    lines_of: Callable[[argparse.Namespace, Setting, int], Iterable[dict[str, Any]]],
    show: Callable[[list[dict[str, Any]]], None],
) -> int:
    """Train and log the lines of each seed in a setting, or show the log; return the status.

    ``setting`` is a dataclass with the defaults of ``--set``. Options of ``parser`` say what is
    trained for a seed.
    """
    add = parser.add_argument
    add("--show", action="store_true", help="print the log and train nothing")
    add("--seeds", nargs="+", type=int, metavar="SEED", default=[0])
    add("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args()
    if options.show:
        show(read_log(log))
        return 0
    setting = changed(setting, options.set)
    for seed in options.seeds:
        for line in lines_of(options, setting, seed):
            write_line(log, line)
    return 0


def write_line(path: Path, line: dict[str, Any]) -> None:
    """Print a line and append it to a log."""
    text = json.dumps(line)
    print(text, flush=True)
    with path.open("a", encoding="utf-8") as log:
        log.write(text + "\n")


def changed(setting: Setting, texts: Iterable[str]) -> Setting:
    """Return a dataclass with the fields that the words of ``--set FIELD=VALUE`` name changed."""
    for text in texts:
        path, value = parse_setting(text)
        setting = with_field(setting, path.split("."), value, path)
    return setting
