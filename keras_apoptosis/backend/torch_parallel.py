"""Lets PyTorch's wrappers for data-parallel training follow a removal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def wrapper_classes() -> tuple[Any, ...]:
    """Returns the classes of wrappers that there may be."""
    parallel = sys.modules.get("torch.nn.parallel.distributed")
    distributed = sys.modules.get("torch.distributed")
    if parallel is None or distributed is None:
        return ()
    if not (distributed.is_available() and distributed.is_initialized()):
        return ()
    return (parallel.DistributedDataParallel,)


def renew_wrappers(wrappers: Iterable[Any]) -> None:
    """Makes wrappers anew in place, for parameters of other shapes.

    `DistributedDataParallel` sorts parameters into buckets by their size and
    hangs itself on what accumulates their gradients. All workers must call
    it, as with the wrapper itself.

    Args:
        wrappers: Instances of `DistributedDataParallel`.
    """
    for each in wrappers:
        sync = "forward_sync_buffers"  # Of newer versions.
        if not hasattr(each, sync):
            sync = "broadcast_buffers"
        # Of the class itself: a subclass may take other arguments.
        wrapper_classes()[0].__init__(
            each,
            each.module,
            device_ids=each.device_ids,
            output_device=each.output_device,
            dim=each.dim,
            process_group=each.process_group,
            bucket_cap_mb=each.bucket_bytes_cap / 2**20,
            find_unused_parameters=each.find_unused_parameters,
            gradient_as_bucket_view=each.gradient_as_bucket_view,
            static_graph=each.static_graph,
            **{sync: getattr(each, sync)},
        )
