"""Data: shards and their index, the order of samples, decoding, augmentation, batches, packing."""
