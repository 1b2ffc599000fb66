"""Pictures of recorded runs, and the style that all pictures share."""
