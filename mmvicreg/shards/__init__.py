"""Tar files, local or remote, go in; an index of their samples and members comes out."""
