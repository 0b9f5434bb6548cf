"""What a removal's retrace takes, for a ResNet-18 of a quarter's width.

    CPU_TIME=1 KERAS_BACKEND=tensorflow python benchmarks/retraces.py [sgd]

Prints the seconds of each step; units leave after the third, sixth and ninth.
"""

from __future__ import annotations

import sys

import keras
from _measure import batch_of, machine, now
from keras import layers

import keras_apoptosis as ka


def resnet18() -> keras.Model:
    """Residual blocks of 16 to 128 channels, on images of 32 x 32 pixels."""

    def convolution(x, filters, size, stride=1):
        x = layers.Conv2D(
            filters, size, stride, padding="same", use_bias=False
        )(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolution(inputs, 16, 3))
    for filters in (16, 32, 64, 128):
        for stride in (1 if filters == 16 else 2, 1):
            y = layers.ReLU()(convolution(x, filters, 3, stride))
            y = convolution(y, filters, 3)
            if x.shape[-1] != filters:
                x = convolution(x, filters, 1, stride)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


class Removals(keras.callbacks.Callback):
    """Removes two units of each group after each third step."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch, logs=None):
        self.start = now()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(now() - self.start)
        if batch in (2, 5, 8):
            groups = ka.unit_groups(self.model)
            ka.shrink(
                self.model,
                ka.Removal({g.name: [0, 1] for g in groups if g.removable}),
            )


model = resnet18()
model.compile(
    sys.argv[1] if sys.argv[1:] else "adam",
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
x, y = batch_of(model, 48)
removals = Removals()
model.fit(x, y, batch_size=4, verbose=0, callbacks=[removals])
print(", ".join(f"{each:.2f}" for each in removals.seconds))
print(machine())
