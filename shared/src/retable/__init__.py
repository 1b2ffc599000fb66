"""The shared core of Retable: methods, data, evaluation and tables of self-supervised papers."""

__version__ = "0.1.0"
