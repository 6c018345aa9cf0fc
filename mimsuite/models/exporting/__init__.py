"""Models in the formats of other programs: written, loaded back, compared, described. Imported by `mimsuite export`."""
