"""A run goes in; models that other libraries load come out, and their models come in as runs."""
