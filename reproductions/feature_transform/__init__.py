"""Tables and figures of feature transformation (Zhu et al., ICCV 2021)."""
