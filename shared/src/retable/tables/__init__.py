"""Stored numbers, comparison, verdicts and how they are shown."""
