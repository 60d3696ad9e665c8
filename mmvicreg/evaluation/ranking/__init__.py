"""Enters: embeddings of queries and items, and which of them match. Leaves: how many items score above, and the same
as, each match, exactly and without a score matrix."""
