"""The reproduction engine: a table script states rows, columns and scales, this does the rest."""

from retable.reproduce.command import main
from retable.reproduce.table import Difference, Figure, Gain, Histories, Ratio, Row, Table

__all__ = ["Difference", "Figure", "Gain", "Histories", "Ratio", "Row", "Table", "main"]
