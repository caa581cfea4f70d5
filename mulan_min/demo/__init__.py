"""The demo world: music made from recipes, with words about it, on the reader's own machine."""
