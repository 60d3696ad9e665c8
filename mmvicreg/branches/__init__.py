"""Inputs of each view go in; representations h and embeddings z come out."""
