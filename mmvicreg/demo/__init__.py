"""What the demonstration recipes share: the packaged shards, and small frozen towers that packages of weights bring.

Nothing goes in; out come the folder of the shards and modalities to be adapted with ``dataclasses.replace``.
"""
