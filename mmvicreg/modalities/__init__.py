"""Built-in modalities, one file each. A modality is any frozen dataclass with ``reader()`` and ``branch()``."""
