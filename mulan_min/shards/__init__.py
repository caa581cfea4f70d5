"""Tar shards: collections too large for one manifest, packed once and read as a stream."""
