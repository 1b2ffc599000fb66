"""Tables of contrastive learning with non-semantic negatives (Ge et al., NeurIPS 2021)."""
