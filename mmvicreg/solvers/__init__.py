"""Closed-form solvers: moments of paired representations to heads, in one pass and without gradient steps."""
