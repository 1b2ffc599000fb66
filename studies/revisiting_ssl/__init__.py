"""Studies of the four pretext tasks."""
