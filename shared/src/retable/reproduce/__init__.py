"""The reproduction engine: a table script states rows, columns and scales, this does the rest."""

from retable.reproduce.collapse import CollapseCriterion
from retable.reproduce.command import main
from retable.reproduce.table import (
    Difference,
    Gain,
    Histories,
    History,
    Metric,
    Ratio,
    Table,
    TableRow,
    training_name,
)

__all__ = [
    "CollapseCriterion",
    "Difference",
    "Gain",
    "Histories",
    "History",
    "Metric",
    "Ratio",
    "Table",
    "TableRow",
    "main",
    "training_name",
]
