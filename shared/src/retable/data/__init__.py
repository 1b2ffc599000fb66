"""Data sets, subsets, decoding, the order of samples and the batches made of them."""
