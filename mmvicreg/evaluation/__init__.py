"""A run and held-out shards go in; scores with intervals, figures and a report come out."""
