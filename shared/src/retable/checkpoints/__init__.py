"""Encoder files: our own, those of other programs, and exports to them."""

from retable.checkpoints.encoder_files import LoadedEncoder, save_encoder
from retable.checkpoints.exporting import LAYOUTS, Layout, export_encoder, save_export
from retable.checkpoints.loading import load_encoder

__all__ = [
    "LAYOUTS",
    "Layout",
    "LoadedEncoder",
    "export_encoder",
    "load_encoder",
    "save_encoder",
    "save_export",
]
