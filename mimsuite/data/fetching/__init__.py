"""How data are fetched: what is tried again and for how long, and whole shards that are kept on this machine."""
