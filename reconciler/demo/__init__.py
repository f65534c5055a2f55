"""``make demo``: the main job on real parts, from specs in Git to running shards."""
