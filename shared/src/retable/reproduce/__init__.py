"""The reproduction engine: trains, evaluates and compares the rows that a table script states."""

from retable.reproduce.command import main
from retable.reproduce.run import FinishedRun, FinishedRuns
from retable.reproduce.table import (
    CollapseCriterion,
    Difference,
    Gain,
    Metric,
    Ratio,
    Table,
    TableRow,
    training_name,
)

__all__ = [
    "CollapseCriterion",
    "Difference",
    "FinishedRun",
    "FinishedRuns",
    "Gain",
    "Metric",
    "Ratio",
    "Table",
    "TableRow",
    "main",
    "training_name",
]
