"""The texts in the tags of music files."""
