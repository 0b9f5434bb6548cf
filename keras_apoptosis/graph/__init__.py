"""The rules of every layer, and the unit groups that follow from them."""

from keras_apoptosis.graph.groups import (
    Analysis,
    Observation,
    UnitGroup,
    analyse,
    unit_groups,
)
from keras_apoptosis.graph.reading import Graph, Place, Step, read
from keras_apoptosis.graph.rule_table import RULES, Rule, register_rule

__all__ = [
    "RULES",
    "Analysis",
    "Graph",
    "Observation",
    "Place",
    "Rule",
    "Step",
    "UnitGroup",
    "analyse",
    "read",
    "register_rule",
    "unit_groups",
]
