"""Studies of MoCHi."""
