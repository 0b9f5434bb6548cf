"""Methods, as callbacks for `model.fit`."""

from keras_apoptosis.callbacks.checkpoint import Checkpoint
from keras_apoptosis.callbacks.event import Event
from keras_apoptosis.callbacks.neuron_apoptosis import NeuronApoptosis
from keras_apoptosis.callbacks.synaptic_stripping import (
    Stripping,
    SynapticStripping,
)

__all__ = [
    "Checkpoint",
    "Event",
    "NeuronApoptosis",
    "Stripping",
    "SynapticStripping",
]
