"""ReLICv2: an invariance loss, many views and saliency masks (Tomasev et al., 2022)."""

from relicv2.candidates import draw_candidates
from relicv2.loss import pair_losses
from relicv2.method import ReLICv2, ReLICv2Recipe
from relicv2.views import views

__all__ = ["ReLICv2", "ReLICv2Recipe", "draw_candidates", "pair_losses", "views"]

__version__ = "0.1.0"
