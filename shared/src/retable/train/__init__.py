"""Pretraining: recipe, loop, optimizer, checkpoints, and what a run records."""
