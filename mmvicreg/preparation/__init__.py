"""Pictures, tables and tar files go in; shards and a report of what is wrong with them come out."""
