"""Schedules: when to prune, how much, and values that change meanwhile.

Small frozen objects that know no model. There are two kinds, with one method
each: an `EventSchedule` gives the `times` at which events fire, a
`ValueSchedule` is called with the fraction that is done. Both count in
fractions of the whole training, so that they need not change with its length.
"""

from keras_apoptosis.schedules.events import (
    EndOfTraining,
    EventSchedule,
    EveryEpoch,
    EverySteps,
    Fixed,
    HalfLife,
    Logarithmic,
    QuarterLife,
    Random,
)
from keras_apoptosis.schedules.sparsities import (
    AtEpochs,
    OneShot,
    Polynomial,
    WhenSettled,
)
from keras_apoptosis.schedules.values import (
    Constant,
    LinearDegree,
    OneCycle,
    ValueSchedule,
    Warmup,
)

__all__ = [
    "AtEpochs",
    "Constant",
    "EndOfTraining",
    "EventSchedule",
    "EveryEpoch",
    "EverySteps",
    "Fixed",
    "HalfLife",
    "LinearDegree",
    "Logarithmic",
    "OneCycle",
    "OneShot",
    "Polynomial",
    "QuarterLife",
    "Random",
    "ValueSchedule",
    "Warmup",
    "WhenSettled",
]
