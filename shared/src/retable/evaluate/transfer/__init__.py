"""Evaluations that train the encoder."""
