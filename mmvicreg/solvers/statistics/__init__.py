"""Statistics of paired features.

Representations and which of them match enter; fitted feature maps and moments leave.
"""
