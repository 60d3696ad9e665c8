"""Embeddings and presence go in; named, unweighted loss terms and their weighted total come out."""
