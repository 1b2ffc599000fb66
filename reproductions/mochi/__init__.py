"""Tables and figures of MoCHi (Kalantidis et al., NeurIPS 2020)."""
