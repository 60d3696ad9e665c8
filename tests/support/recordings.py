"""Recordings made for tests."""

import io

import numpy as np
import soundfile

RATE = 8000
"""Samples a second."""


def tone(hertz: float) -> bytes:
    """A second of a sine as Ogg Vorbis."""
    file = io.BytesIO()
    wave = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE) / 2
    soundfile.write(file, wave, RATE, format="OGG")
    return file.getvalue()
