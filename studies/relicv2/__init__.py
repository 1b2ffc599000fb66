"""Studies of ReLICv2's tables."""
