"""A configuration and an objective go in; a trained run comes out."""
