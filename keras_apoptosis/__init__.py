"""Remove neurons while a Keras model trains."""

from keras_apoptosis import (
    accounting,
    callbacks,
    criteria,
    distributed,
    layers,
    schedules,
    statistics,
)
from keras_apoptosis.accounting import flops
from keras_apoptosis.conversion import make_prunable, strip
from keras_apoptosis.graph import UnitGroup, register_rule, rules, unit_groups
from keras_apoptosis.report import Report, report
from keras_apoptosis.statistics.probe import unit_statistics
from keras_apoptosis.surgery import Removal, Replacement, rebuild, shrink

__all__ = [
    "Removal",
    "Replacement",
    "Report",
    "UnitGroup",
    "accounting",
    "callbacks",
    "criteria",
    "distributed",
    "flops",
    "layers",
    "make_prunable",
    "rebuild",
    "register_rule",
    "report",
    "rules",
    "schedules",
    "shrink",
    "statistics",
    "strip",
    "unit_groups",
    "unit_statistics",
]
