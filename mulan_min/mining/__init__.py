"""Cleans the text that people write about music, with rules and with a learned filter."""
