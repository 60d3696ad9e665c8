"""Enters: the files of a published benchmark in its own layout, a folder of its media, and a run. Leaves: scores under
its protocol: retrieval both ways, or hard negatives. Nothing is downloaded, and nothing in a file is run."""
