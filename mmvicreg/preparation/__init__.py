"""Packing images and captions into shards, and checking shards.

Images, tables and tar files go in; shards and a report of everything that is wrong with them come out.
"""
