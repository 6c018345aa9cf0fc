"""Features of a frozen encoder: computed in one pass, kept on disk."""
