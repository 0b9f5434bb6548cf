"""Applying a removal to a model."""

from keras_apoptosis.surgery.conversion import make_prunable, strip_pruning
from keras_apoptosis.surgery.inlining import inline
from keras_apoptosis.surgery.removal import Removal, Replacement
from keras_apoptosis.surgery.report import Report
from keras_apoptosis.surgery.shrink import rebuild, shrink
from keras_apoptosis.surgery.snapshot import Snapshot, snapshot

__all__ = [
    "Removal",
    "Replacement",
    "Report",
    "Snapshot",
    "inline",
    "make_prunable",
    "rebuild",
    "shrink",
    "snapshot",
    "strip_pruning",
]
