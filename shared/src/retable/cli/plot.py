"""``retable plot``: draw the recorded scores and gradients of runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from retable.domains import Count, integer
from retable.errors import UserError
from retable.text import printable

_RUN = "the folder of a run, or the metrics.jsonl of any training loop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    pictures = parser.add_subparsers(dest="picture", required=True, metavar="PICTURE")
    scores = pictures.add_parser("scores", help="Mean(pos), Mean(neg) and Var(neg) over steps")
    gradients = pictures.add_parser("gradients", help="gradient norm of each module and epoch")
    for picture in (scores, gradients):
        add = picture.add_argument
        add("runs", metavar="RUN", nargs="+", type=Path, help=_RUN)
        out = "a .png, .svg or .pdf file; default: PICTURE.png in the current folder"
        add("--out", metavar="FILE", type=Path, help=out)
        names = "names of the runs; default: their methods and the settings in which they differ"
        add("--labels", metavar="LABEL", nargs="+", help=names)
    smooth = "length of the running mean, 1 for none; default: a hundredth of the steps drawn"
    scores.add_argument("--smooth", metavar="STEPS", type=integer(Count), help=smooth)
    part = scores.add_mutually_exclusive_group().add_argument
    epochs = "epochs to draw; 0:10 is the first ten epochs, 30: all after the thirtieth"
    part("--epochs", metavar="FIRST:LAST", help=epochs)
    part("--steps", metavar="FIRST:LAST", help="steps to draw, on an axis of steps")
    raw = "raw scores, those that the loss used, or both; default: %(default)s"
    kinds = ("both", "raw", "transformed")
    scores.add_argument("--scores", choices=kinds, default="both", help=raw)
    heat = "heat map, surface in three dimensions, or both; default: %(default)s"
    gradients.add_argument("--kind", choices=("heat", "surface", "both"), default="both", help=heat)
    statistic = "statistic of the steps of an epoch; default: %(default)s"
    options = ("mean", "std", "max")
    gradients.add_argument("--statistic", choices=options, default="mean", help=statistic)


def run(options: argparse.Namespace) -> int:
    """Draw a picture of runs and print its path."""
    from retable.outputs import check_output_file
    from retable.plots import drawing
    from retable.plots.gradients import draw_gradients
    from retable.plots.recorded import name_runs, read_gradients, read_scores
    from retable.plots.scores import draw_scores

    out = options.out or Path(f"{options.picture}.png")
    drawing.kind_of(out)
    check_output_file(out, "--out")
    drawing.require()
    labels = name_runs(options.runs, options.labels)
    runs = dict(zip(labels, options.runs, strict=True))
    if options.picture == "scores":
        figure = draw_scores(
            {name: read_scores(run) for name, run in runs.items()},
            smooth=options.smooth,
            epochs=_part("--epochs", options.epochs),
            steps=_part("--steps", options.steps),
            scores=options.scores,
        )
    else:
        recorded = {name: read_gradients(run) for name, run in runs.items()}
        figure = draw_gradients(recorded, kind=options.kind, statistic=options.statistic)
    drawing.save(figure, out)
    print(printable(f"{out}: the {options.picture} of {'; '.join(labels)}"))
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
