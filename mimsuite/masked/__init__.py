"""The mathematics of masked modeling: patches, masks, targets, losses."""
