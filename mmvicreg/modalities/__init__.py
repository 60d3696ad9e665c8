"""Plain fields go in; a reader (bytes to array) and a branch (encoder and projector) come out."""
