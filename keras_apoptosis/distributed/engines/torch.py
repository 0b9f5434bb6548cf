"""`torch.distributed`, for the PyTorch backend: by Gloo or NCCL."""

from __future__ import annotations

import atexit
import datetime
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_apoptosis.distributed.engines.engine import Engine


class TorchEngine(Engine):
    """Connects processes that `torchrun` started.

    Each gets one GPU of its host, if there are any. A process group that the
    script has made is used as it is.

    Args:
        timeout: How many seconds a rank may keep the others waiting.
    """

    name = "torch.distributed"
    compilable = False

    def __init__(self, timeout: float):
        import torch
        import torch.distributed as distributed

        if torch.cuda.is_available():
            number = int(os.environ.get("LOCAL_RANK") or 0)
            torch.cuda.set_device(number % torch.cuda.device_count())
        if not distributed.is_initialized():
            limit = datetime.timedelta(seconds=timeout)
            store, rank, size = next(
                distributed.rendezvous("env://", timeout=limit)
            )
            # After a restart, or ranks might find addresses of the time before.
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            distributed.init_process_group(
                "nccl" if torch.cuda.is_available() else "gloo",
                store=distributed.PrefixStore(f"attempt {attempt}", store),
                rank=rank,
                world_size=size,
                timeout=limit,
            )
            atexit.register(_leave)
        self._distributed = distributed
        self._device = torch.device("cpu")
        if distributed.get_backend() == "nccl":
            self._device = torch.device("cuda", torch.cuda.current_device())
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()

    def reduce(self, values: np.ndarray, name: str, operation: str) -> Any:
        import torch

        operations = self._distributed.ReduceOp
        tensor = torch.tensor(values, device=self._device)
        self._distributed.all_reduce(
            tensor, {"sum": operations.SUM, "max": operations.MAX}[operation]
        )
        return tensor.cpu().numpy()

    def gather(self, value: Any, name: str) -> list[Any]:
        found: list[Any] = [None] * self.size
        self._distributed.all_gather_object(found, value)
        return found

    def broadcast(self, value: Any, name: str) -> Any:
        found = [value]
        self._distributed.broadcast_object_list(found, device=self._device)
        return found[0]

    def average(
        self, tensors: Sequence[Any], name: str, compression: str = "none"
    ) -> list[Any]:
        import torch

        # In one piece for each type: many small messages would be slow.
        kinds: dict[Any, list[int]] = {}
        for number, tensor in enumerate(tensors):
            kinds.setdefault(tensor.dtype, []).append(number)
        found: list[Any] = [None] * len(tensors)
        for dtype, numbers in kinds.items():
            parts = [tensors[n].detach().reshape(-1) for n in numbers]
            whole = torch.cat(parts)
            if compression == "fp16":
                whole = whole.half()
            self._distributed.all_reduce(whole)
            whole = whole.to(dtype) / self.size
            sizes = [part.numel() for part in parts]
            for n, part in zip(numbers, whole.split(sizes), strict=True):
                found[n] = part.reshape(tensors[n].shape)
        return found


def _leave() -> None:
    """Ends the process group, but not where others may never get there.

    A thread of Gloo that lets go of its last work while the interpreter ends
    asks for the interpreter, and aborts the process.
    """
    import torch.distributed as distributed

    failed = getattr(sys, "last_value", None) is not None
    if distributed.is_initialized() and not failed:
        distributed.destroy_process_group()
