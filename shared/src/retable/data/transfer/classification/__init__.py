"""Data sets of labelled images that papers transfer encoders to, with the papers' splits."""
