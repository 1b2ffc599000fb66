"""Report of an evaluation: what was evaluated on which images, how, and with which result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retable.data.skipped import count_line
from retable.evaluate.protocol import TOP1, TOP5, Evaluation
from retable.text import printable
from retable.weights import assumption

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.evaluate.data import OpenSource


def facts_of(
    recipe: Evaluation,
    named: Evaluation,
    sources: Mapping[str, Source],
    open_variant: OpenSource,
    results: Mapping[str, float],
) -> dict[str, Any]:
    """Return the facts of an evaluation that its recipe does not hold.

    ``named`` is the recipe as the user asked for it, whose views may be those of the images;
    ``sources`` are the images under "train" and "test".
    """
    return {
        "views": _views(recipe, named),
        "data": _data_facts(recipe, open_variant),
        "images": {use: len(source) for use, source in sources.items()},
        "replaced": {use: _replaced(source) for use, source in sources.items()},
        "defaults_of": recipe.defaults_of,
        "standard_errors": _standard_errors(recipe, results, len(sources["test"])),
    }


def _views(recipe: Evaluation, named: Evaluation) -> dict[str, dict[str, Any]]:
    """Return the sizes of an evaluation's views, and whether its settings name them."""
    found = {}
    for name in ("view", "train_view", "test_view"):
        holder, asked = getattr(recipe, "probe", recipe), getattr(named, "probe", named)
        if (view := getattr(holder, name, None)) is not None:
            chosen = "settings" if getattr(asked, name) is not None else "size of the images"
            found[name] = {"size": view.size, "resize": view.resize, "chosen_by": chosen}
    return found


def _data_facts(recipe: Evaluation, open_variant: OpenSource) -> dict[str, dict[str, Any]]:
    """Describe the splits that the images are from, under "train" and "test"."""
    data = recipe.data
    splits = {use: data.tested_split if use == "test" else use for use in recipe.reads}
    return {
        use: open_variant(split, data=data.source or None).description
        for use, split in splits.items()
    }


def _replaced(source: Source) -> int:
    """Count the images that turned out unreadable when decoded, in this process."""
    base = getattr(source, "base", None)
    return max(len(source.unreadable), 0 if base is None else _replaced(base))


def _data_lines(report: dict[str, Any]) -> list[str]:
    """Say how many images there are, what is left out, and at which size images are judged."""
    lines = []
    for use, facts in report["data"].items():
        used = report["images"][use]
        part = "" if used == facts.get("images", used) else f"{used:,} used of "
        lines.append(f"  {use}: {part}{count_line(facts)}")
        if replaced := report["replaced"][use]:
            lines[-1] += f"; unreadable when decoded, replaced by the next image: {replaced:,}"
        if reason := facts.get("not_comparable"):
            lines[-1] += f"; not comparable with published numbers: {reason}"
    for name, view in report["views"].items():
        resized = f", short side to {view['resize']}" if view["resize"] else ""
        chosen = f"chosen by the {view['chosen_by']}"
        lines.append(f"  {name.replace('_', ' ')}: {view['size']} pixels{resized}, {chosen}")
    return lines


def _standard_errors(
    recipe: Evaluation, results: Mapping[str, float], images: int
) -> dict[str, float]:
    """Return the binomial standard errors of accuracies over so many test images, in points."""
    errors = {}
    for name, spec in recipe.metrics.items():
        if spec in (TOP1, TOP5) and name in results:
            share = min(max(results[name] / 100, 0.0), 1.0)
            errors[name] = 100 * math.sqrt(share * (1 - share) / images)
    return errors


def _settings_lines(report: dict[str, Any]) -> list[str]:
    """Say with which settings the encoder is evaluated, and whose the defaults are."""
    settings = [
        f"{name} {value}"
        for name, value in report["protocol"].items()
        if name not in ("kind", "name") and not isinstance(value, dict)
    ]
    lines = [f"  settings: {', '.join(settings)}"] if settings else []
    if report["defaults_of"]:
        lines.append(
            f"  defaults: {report['defaults_of']}; for another data set choose its own with --set"
        )
    return lines


def as_text(report: dict[str, Any]) -> str:
    """Return a report for a terminal."""
    metadata = report["encoder"]["metadata"]
    dropped = ", ".join(map(str, metadata.get("dropped", [])))
    assumed = assumption(metadata)
    lines = [
        printable(f"{report['checkpoint']}: {report['encoder']['name']}"),
        *([printable(f"left out of the file: {dropped}")] if dropped else []),
        *([assumed] if assumed else []),
        f"{report['protocol']['name']} on {printable(report['data']['test']['source'])}, seed "
        f"{report['seed']}; accuracies in percent",
        *_data_lines(report),
        *_settings_lines(report),
    ]
    width = max(len(name) for name in report["results"])
    errors = {name: f" ± {e:.2g}" for name, e in report["standard_errors"].items()}
    lines += [
        f"  {name:<{width}}  {value:10.4g}{errors.get(name, '')}"
        for name, value in report["results"].items()
    ]
    if errors:
        lines.append(f"  ±: standard error over {report['images']['test']:,} test images")
    return "\n".join(lines)
