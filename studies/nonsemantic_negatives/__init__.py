"""Questions beside the tables of non-semantic negatives."""
