"""A configuration goes in; a run directory comes out: configuration, log, events, checkpoints; and a `Run` read back."""
