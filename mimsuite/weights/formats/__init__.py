"""Weights of other libraries: one file here per format, with one table of names from which both directions follow."""
