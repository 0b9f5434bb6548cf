"""When something happens during training, and how much of it.

Small frozen objects that know no model. There are two kinds, with one method
each: an `EventSchedule` gives the `times` at which events fire, a
`ValueSchedule` is called with how far things have come. Both count in
fractions of the whole training, so that they need not change with its length.
"""

from keras_apoptosis.schedules.amounts import (
    AtEpochs,
    OneShot,
    Polynomial,
    WhenSettled,
)
from keras_apoptosis.schedules.events import (
    EndOfTraining,
    EventSchedule,
    EveryEpoch,
    Fixed,
    HalfLife,
    Logarithmic,
    QuarterLife,
    Random,
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
