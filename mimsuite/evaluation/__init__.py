"""How good frozen features are: kNN and a linear probe on whole images, beside a raw-pixel baseline."""
