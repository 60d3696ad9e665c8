"""A name of timm, open_clip or transformers goes in; an encoder and its output width come out."""
