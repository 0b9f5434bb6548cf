"""Methods, as callbacks for `model.fit`."""

from keras_apoptosis.callbacks.neuron_apoptosis import NeuronApoptosis
from keras_apoptosis.callbacks.scheduled_surgery import Event

__all__ = ["Event", "NeuronApoptosis"]
