"""Protocols that judge an encoder: linear probes, nearest neighbours, geometry, robustness."""
