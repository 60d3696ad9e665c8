"""A configuration goes in; a run directory with its checkpoints comes out, and a Run read back from it."""
