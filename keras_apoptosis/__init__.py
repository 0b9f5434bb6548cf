"""Remove neurons while a Keras model trains."""

from keras_apoptosis import (
    accounting,
    callbacks,
    criteria,
    distributed,
    layers,
    schedules,
    selection,
    statistics,
    targets,
)
from keras_apoptosis.accounting import (
    flops,
    plot_groups,
    plot_history,
    report,
)
from keras_apoptosis.graph import UnitGroup, register_rule, unit_groups
from keras_apoptosis.graph import rule_table as rules
from keras_apoptosis.selection.price import Limit
from keras_apoptosis.selection.prune import prune
from keras_apoptosis.statistics.probe import unit_statistics
from keras_apoptosis.surgery import (
    Removal,
    Replacement,
    Report,
    inline,
    make_prunable,
    rebuild,
    shrink,
    snapshot,
    strip_pruning,
)
from keras_apoptosis.training.recalibration import recalibrate

__version__ = "0.1.0"

__all__ = [
    "Limit",
    "Removal",
    "Replacement",
    "Report",
    "UnitGroup",
    "accounting",
    "callbacks",
    "criteria",
    "distributed",
    "flops",
    "inline",
    "layers",
    "make_prunable",
    "plot_groups",
    "plot_history",
    "prune",
    "rebuild",
    "recalibrate",
    "register_rule",
    "report",
    "rules",
    "schedules",
    "selection",
    "shrink",
    "snapshot",
    "statistics",
    "strip_pruning",
    "targets",
    "unit_groups",
    "unit_statistics",
]
