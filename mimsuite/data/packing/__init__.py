"""From a folder of images to shards and an index."""
