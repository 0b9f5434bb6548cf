"""Methods, as callbacks for `model.fit`."""

from keras_apoptosis.callbacks.event import Event
from keras_apoptosis.callbacks.neuron_apoptosis import NeuronApoptosis

__all__ = ["Event", "NeuronApoptosis"]
