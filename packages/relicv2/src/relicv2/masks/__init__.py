"""Masks of a folder of images, one file for each image."""
