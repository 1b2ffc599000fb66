"""What belongs to no single paper: recipes that several compare with, and facts of the field."""

from pathlib import Path

FACTS = Path(__file__).with_name("facts.toml")
"""Facts that claims of papers depend on; ``facts.proxy.toml`` beside it says which of them show."""
