"""Reading and writing weights: one file per format."""
