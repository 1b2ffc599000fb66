"""MoCHi: hard negative mixing for contrastive learning (Kalantidis et al., NeurIPS 2020)."""

__version__ = "0.1.0"
