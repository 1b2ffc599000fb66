"""Shapes, the built-in procedural data set."""
