"""Shards, a run and queries go in.
Statistics, a contact sheet, neighbours, maps and pages to look at come out."""
