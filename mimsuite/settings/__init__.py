"""From a composed config and the facts of data and weights to checked, frozen values. Imports no torch."""
