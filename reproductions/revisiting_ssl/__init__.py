"""Tables and figures of revisiting self-supervised learning (Kolesnikov et al., CVPR 2019)."""
