"""Labels of a split, counted."""

from collections import Counter

from mimsuite.data.label_table import read_labels


def count_labels(index, split):
    """How many samples each class has; a sample of several classes counts for each."""
    labels = read_labels(index, index.records(split))
    return Counter(one for label in labels for one in (label if isinstance(label, tuple) else (label,)))
