"""Encoder files: our own, those of other programs, and exports."""

from retable.weights.encoder_files import LoadedEncoder, save_encoder
from retable.weights.exporting import LAYOUTS, Layout, export_encoder, save_export
from retable.weights.loading import load_encoder
from retable.weights.structure import assumption

__all__ = [
    "LAYOUTS",
    "Layout",
    "LoadedEncoder",
    "assumption",
    "export_encoder",
    "load_encoder",
    "save_encoder",
    "save_export",
]
