"""Tables of ReLICv2 (Tomasev et al., 2022)."""
