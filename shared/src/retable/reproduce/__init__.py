"""The reproduction engine: a table script states rows, columns and scales, this does the rest."""

from retable.reproduce.collapse import CollapseCriterion
from retable.reproduce.command import main
from retable.reproduce.table import (
    Difference,
    Figure,
    Gain,
    Histories,
    History,
    Ratio,
    Row,
    Table,
    training_name,
)

__all__ = [
    "CollapseCriterion",
    "Difference",
    "Figure",
    "Gain",
    "Histories",
    "History",
    "Ratio",
    "Row",
    "Table",
    "main",
    "training_name",
]
