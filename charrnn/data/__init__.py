"""A text on its way in: finding, reading, tokens, split, streams."""
