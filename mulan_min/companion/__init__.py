"""The companion paper, "Music Auto-tagging with Joint Embeddings": six extractors and the joint tagger."""
