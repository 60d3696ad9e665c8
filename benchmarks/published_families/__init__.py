"""A folder goes in: a small model of a published architecture is saved there.

Its library's own embeddings come out.
"""
