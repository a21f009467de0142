"""The two VAEs."""
