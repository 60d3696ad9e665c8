"""Tools to prove that a regularizer or an alignment gives on N processes what it gives on one.

Real gloo processes, slow fp64 reference implementations, and a check of value and gradient.
"""
