"""Unsupervised saliency: where the object of an image is (section F.2.1)."""
