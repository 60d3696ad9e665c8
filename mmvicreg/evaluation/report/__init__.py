"""Scores and logs go in; figures and one self-contained HTML page come out."""
