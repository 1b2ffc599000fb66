"""Pictures of what runs recorded, and what all pictures share."""
