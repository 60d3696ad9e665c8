"""Train encoders of several modalities together without contrastive negatives.

The public names are listed once, in ``__init__.pyi``, which type checkers read. Each is imported on first use, so that
``import mmvicreg`` and ``--help`` stay fast.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
