"""Sample counts, seed and step go in; the sample of every slot of a global batch comes out, by a pure function."""
