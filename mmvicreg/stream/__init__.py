"""An index, a plan and readers go in; batches come out, in the same order for any number of processes."""
