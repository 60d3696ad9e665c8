"""Memory that batches are read into, used again once nobody holds them any more.

A fresh buffer above 32 MB is new pages of the system every time: 52 us an image of 224 pixels, measured, where
writing it takes 7. Page-locked buffers are kept and used again by torch's own allocator, which also waits for the
copies to the device that read them; ordinary ones by this file.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping

import numpy as np
import torch

from mmvicreg.stream.reader import Reader


class Buffers:
    """Hands out {view: (rows, *shape)}, not yet written; images (3 dimensions) are laid out channels last.

    A buffer is free again when the last tensor over it is gone: the one handed out, its views, and what ``numpy()``
    made of them. So a batch that is kept is never written to. At most ``keep`` free buffers of each view are held.
    """

    def __init__(self, readers: Mapping[str, Reader], rows: int, *, keep: int, pin: bool) -> None:
        self._shapes = {view: ((rows, *reader.shape), reader.dtype) for view, reader in readers.items()}
        self._keep, self._pin = keep, pin
        self._free: dict[str, list[np.ndarray]] = {view: [] for view in self._shapes}

    def take(self) -> dict[str, torch.Tensor]:
        """Buffers of one batch."""
        return {view: self._pinned(view) if self._pin else self._ordinary(view) for view in self._shapes}

    def _pinned(self, view: str) -> torch.Tensor:
        shape, dtype = self._shapes[view]
        layout = torch.channels_last if _is_image(shape) else torch.contiguous_format
        return torch.empty(shape, dtype=dtype, pin_memory=True, memory_format=layout)

    def _ordinary(self, view: str) -> torch.Tensor:
        shape, dtype = self._shapes[view]
        free = self._free[view]
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
        lent = memory.view()  # the tensor's storage keeps this alive: it is gone when the last user is
        weakref.finalize(lent, self._put_back, free, memory).atexit = False
        flat = torch.from_numpy(lent).view(dtype)
        if _is_image(shape):
            rows, channels, height, width = shape
            return flat.view(rows, height, width, channels).permute(0, 3, 1, 2)
        return flat.view(shape)

    def _put_back(self, free: list[np.ndarray], memory: np.ndarray) -> None:
        if len(free) < self._keep:
            free.append(memory)


class Sender:
    """Copies of batches to a GPU, on a CUDA stream of their own: they run while the batch before is computed with."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def send(self, buffers: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Begin to copy page-locked ``buffers``; what comes back may be used after ``receive``."""
        with torch.cuda.stream(self._stream):
            return {view: x.to(self._device, non_blocking=True) for view, x in buffers.items()}

    def receive(self, sent: Mapping[str, torch.Tensor]) -> None:
        """Let the current stream wait for every copy begun so far; the host does not wait."""
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for x in sent.values():
            x.record_stream(current)  # its memory came from the other stream


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[1] == 3
