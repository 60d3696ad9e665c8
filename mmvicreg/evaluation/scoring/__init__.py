"""Enters: embeddings of two branches, and how to compare them. Leaves: rows whose cosines are the scores of that way:
plain, of what is predicted, along correlated axes, of their first columns, corrected for hubs."""
