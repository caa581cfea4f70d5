"""The demo world: music made from recipes, and texts about it, generated on the reader's own machine."""
