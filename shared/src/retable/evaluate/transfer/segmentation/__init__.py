"""Semantic segmentation with a pretrained encoder: a fully convolutional network."""
