"""Methods, as callbacks for `model.fit`."""

from keras_apoptosis.callbacks.demon_pruning import Deaths, DemonPruning
from keras_apoptosis.callbacks.event import Event
from keras_apoptosis.callbacks.neuron_apoptosis import NeuronApoptosis
from keras_apoptosis.callbacks.synaptic_stripping import (
    Stripping,
    SynapticStripping,
)

__all__ = [
    "Deaths",
    "DemonPruning",
    "Event",
    "NeuronApoptosis",
    "Stripping",
    "SynapticStripping",
]
