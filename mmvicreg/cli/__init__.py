"""Command-line arguments go in; an exit status comes out. One file a command."""
