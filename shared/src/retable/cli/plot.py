"""``retable plot``: draw the recorded scores and gradients of runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from retable.errors import UserError

_RUN = "the folder of a run, or the metrics.jsonl of any training loop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    pictures = parser.add_subparsers(dest="picture", required=True, metavar="PICTURE")
    _add_scores(pictures.add_parser("scores", help="Mean(pos), Mean(neg) and Var(neg) over steps"))
    _add_gradients(pictures.add_parser("gradients", help="gradient norm of each module and epoch"))


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help=_RUN)
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="a .png, .svg or .pdf file; default: PICTURE.png in the current folder",
    )
    parser.add_argument(
        "--labels",
        metavar="LABEL",
        nargs="+",
        help="names of the runs; default: their methods and the settings in which they differ",
    )


def _add_scores(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument(
        "--smooth",
        metavar="STEPS",
        type=int,
        help="length of the running mean, 1 for none; default: a hundredth of the steps drawn",
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument(
        "--epochs",
        metavar="FIRST:LAST",
        help="epochs to draw; 0:10 is the first ten epochs, 30: all after the thirtieth",
    )
    part.add_argument("--steps", metavar="FIRST:LAST", help="steps to draw, on an axis of steps")
    parser.add_argument(
        "--scores",
        choices=("both", "raw", "transformed"),
        default="both",
        help="raw scores, those that the loss used, or both; default: %(default)s",
    )


def _add_gradients(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument(
        "--kind",
        choices=("heat", "surface", "both"),
        default="both",
        help="heat map, surface in three dimensions, or both; default: %(default)s",
    )
    parser.add_argument(
        "--statistic",
        choices=("mean", "std", "max"),
        default="mean",
        help="statistic of the steps of an epoch; default: %(default)s",
    )


def run(options: argparse.Namespace) -> int:
    """Draw a picture of runs and print its path."""
    from retable.plots import drawing
    from retable.plots.gradients import draw_gradients
    from retable.plots.recorded import name_runs, read_gradients, read_scores
    from retable.plots.scores import draw_scores

    out = options.out or Path(f"{options.picture}.png")
    drawing.kind_of(out)
    drawing.require()
    labels = name_runs(options.runs, options.labels)
    if options.picture == "scores":
        if options.smooth is not None and options.smooth < 1:
            raise UserError(f"`--smooth` must be 1 or more steps, got {options.smooth}.")
        figure = draw_scores(
            {n: read_scores(run) for n, run in zip(labels, options.runs, strict=True)},
            smooth=options.smooth,
            epochs=_part("--epochs", options.epochs),
            steps=_part("--steps", options.steps),
            scores=options.scores,
        )
    else:
        figure = draw_gradients(
            {n: read_gradients(run) for n, run in zip(labels, options.runs, strict=True)},
            kind=options.kind,
            statistic=options.statistic,
        )
    try:
        drawing.save(figure, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}). Use another --out.") from None
    print(f"{out}: the {options.picture} of {'; '.join(labels)}")
    return 0


def _part(option: str, text: str | None) -> tuple[float, float] | None:
    """Read FIRST:LAST, either of which may be omitted; None if the option was not given."""
    if text is None:
        return None
    first, colon, last = text.partition(":")
    try:
        part = float(first or "-inf"), float(last or "inf")
    except ValueError:
        part = None
    if not colon or part is None or not part[0] < part[1]:
        raise UserError(f"Invalid {option} '{text}': use FIRST:LAST, for example 0:10.")
    return part
