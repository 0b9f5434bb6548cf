"""Keras' private state: nothing else reads or writes it.

Everything here was measured on Keras 3.15; `tests/backend/` fails if a later
Keras keeps its state otherwise.
"""

from keras_apoptosis.backend.averages import weight_copies
from keras_apoptosis.backend.ftrl import implied_slots
from keras_apoptosis.backend.holders import Holders, holders_of
from keras_apoptosis.backend.kernels import (
    effective_value,
    kernel_mask_of,
    kernel_of,
    mask_over,
)
from keras_apoptosis.backend.layers import (
    build_shapes,
    built_with,
    changed,
    changed_config,
    config_of,
    custom_parts,
    differences,
    function_attributes,
    held_parts,
    is_same,
    own_settings,
    parts_of,
    patched,
    plain_attributes,
    pristine,
    set_attributes,
    set_shape,
    unlocked,
    with_sizes,
)
from keras_apoptosis.backend.models import (
    as_function,
    compile_arguments,
    direct_operations,
    is_nested,
    layers_inside,
    models_of,
    ordered_nodes,
    output_shapes,
    parameters_of,
    recorded_nodes,
    seeds_of,
)
from keras_apoptosis.backend.optimizers import (
    add_unsaved_variable,
    drop_unsaved_variables,
    innermost,
    only_saved,
    reindex,
    steps_of,
    weights_of,
)
from keras_apoptosis.backend.random_state import same_random_state
from keras_apoptosis.backend.saving import (
    config_rebuilds,
    is_saved_layer_by_layer,
    refuse_to_save,
    save_layer_by_layer,
    seen_layer_by_layer,
)
from keras_apoptosis.backend.slots import clear_slots, slots_of
from keras_apoptosis.backend.steps import (
    distribution_of,
    forget_compiled,
    sync_from_jax,
    sync_to_jax,
)
from keras_apoptosis.backend.torch_optimizers import cut_torch_state
from keras_apoptosis.backend.variables import (
    held_value,
    invalidate,
    peek,
    resize_variable,
    snapshot,
)

__all__ = [
    "Holders",
    "add_unsaved_variable",
    "as_function",
    "build_shapes",
    "built_with",
    "changed",
    "changed_config",
    "clear_slots",
    "compile_arguments",
    "config_of",
    "config_rebuilds",
    "custom_parts",
    "cut_torch_state",
    "differences",
    "direct_operations",
    "distribution_of",
    "drop_unsaved_variables",
    "effective_value",
    "forget_compiled",
    "function_attributes",
    "held_parts",
    "held_value",
    "holders_of",
    "implied_slots",
    "innermost",
    "invalidate",
    "is_nested",
    "is_same",
    "is_saved_layer_by_layer",
    "kernel_mask_of",
    "kernel_of",
    "layers_inside",
    "mask_over",
    "models_of",
    "only_saved",
    "ordered_nodes",
    "output_shapes",
    "own_settings",
    "parameters_of",
    "parts_of",
    "patched",
    "peek",
    "plain_attributes",
    "pristine",
    "recorded_nodes",
    "refuse_to_save",
    "reindex",
    "resize_variable",
    "same_random_state",
    "save_layer_by_layer",
    "seeds_of",
    "seen_layer_by_layer",
    "set_attributes",
    "set_shape",
    "slots_of",
    "snapshot",
    "steps_of",
    "sync_from_jax",
    "sync_to_jax",
    "unlocked",
    "weight_copies",
    "weights_of",
    "with_sizes",
]
