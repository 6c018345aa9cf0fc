"""Data sets on other machines: which shards an address stands for, and how they are opened and indexed."""
