"""Remove neurons while a Keras model trains."""

from keras_apoptosis.graph import UnitGroup, register_rule, rules, unit_groups
from keras_apoptosis.report import Report
from keras_apoptosis.surgery import Removal, Replacement, rebuild, shrink

__all__ = [
    "Removal",
    "Replacement",
    "Report",
    "UnitGroup",
    "rebuild",
    "register_rule",
    "rules",
    "shrink",
    "unit_groups",
]
