"""Methods, as callbacks for `model.fit`."""

from keras_apoptosis.callbacks.best_model import BestModel
from keras_apoptosis.callbacks.checkpoint import Checkpoint
from keras_apoptosis.callbacks.demon_pruning import DemonPruning
from keras_apoptosis.callbacks.event import Event
from keras_apoptosis.callbacks.neuron_apoptosis import NeuronApoptosis
from keras_apoptosis.callbacks.outcome import Masks, Skip
from keras_apoptosis.callbacks.pruning_callback import PruningCallback
from keras_apoptosis.callbacks.saliency_pruning import SaliencyPruning
from keras_apoptosis.callbacks.synaptic_stripping import SynapticStripping
from keras_apoptosis.callbacks.training_cost import TrainingCost
from keras_apoptosis.callbacks.unit_monitor import UnitMonitor, UnitRecord

__all__ = [
    "BestModel",
    "Checkpoint",
    "DemonPruning",
    "Event",
    "Masks",
    "NeuronApoptosis",
    "PruningCallback",
    "SaliencyPruning",
    "Skip",
    "SynapticStripping",
    "TrainingCost",
    "UnitMonitor",
    "UnitRecord",
]
