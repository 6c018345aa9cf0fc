"""Looking at a data set: counts, duplicates, damage."""
