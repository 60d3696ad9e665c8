"""Enters: a frozen image encoder, and shards of pictures with masks of class numbers. Leaves: a linear probe that
classifies every pixel, and its mean intersection over union."""
