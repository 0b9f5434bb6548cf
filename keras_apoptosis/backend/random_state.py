"""Keeps random numbers that are drawn from outside of any model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def same_random_state() -> Iterator[None]:
    """Puts PyTorch's random generators back to where they were.

    Dropout draws from them there, and so does whatever iterates over data.
    On other backends each layer has a seed of its own.
    """
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    host, devices = torch.get_rng_state(), torch.cuda.get_rng_state_all()
    try:
        yield
    finally:
        torch.set_rng_state(host)
        torch.cuda.set_rng_state_all(devices)
