"""Counts parameters, FLOPs and sparsity, and presents them."""

from keras_apoptosis.accounting.capacity import Capacity, capacity
from keras_apoptosis.accounting.flops import (
    LayerCost,
    cost_table,
    flops,
    layer_costs,
    parameters,
)
from keras_apoptosis.accounting.plots import plot_groups, plot_history
from keras_apoptosis.accounting.size import Size, size_of
from keras_apoptosis.accounting.summary import report

__all__ = [
    "Capacity",
    "LayerCost",
    "Size",
    "capacity",
    "cost_table",
    "flops",
    "layer_costs",
    "parameters",
    "plot_groups",
    "plot_history",
    "report",
    "size_of",
]
