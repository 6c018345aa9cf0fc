"""Trained models against labels or hidden pixels: metrics, predictions, the worst mistakes."""
