"""Bytes of a member to pixels, arrays, records or waveforms: bounded, and every fault a rejected sample."""
