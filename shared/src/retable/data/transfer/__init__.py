"""Data sets of transfer: objects with boxes and masks, dense targets, small classifications."""
