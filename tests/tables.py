"""Reads the tables that tasks write."""

import csv


def read_rows(path):
    """The lines of a CSV as dictionaries."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
