"""Published out-of-distribution sets of ImageNet, read from their published folders.

`retable.data.imagenet_variants.published.open_variants` opens one by its name. Nothing is
downloaded. Layout and counts are checked before an image is read.
"""
