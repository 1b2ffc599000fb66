"""Blocks for any training loop: heads, queues, momentum copies, losses, batch-norm groups."""
