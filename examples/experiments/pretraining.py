"""Autoencoders before the classifier, both with apoptosis (section VII-D).

Each hidden layer is trained as the encoder of an autoencoder of what the
layers below it give, and keeps what apoptosis leaves of it; then all of them
are trained with the output layer, and apoptosis goes on.
"""

from __future__ import annotations

import dataclasses

import keras
from keras import layers

from experiments import apoptosis, training
from experiments.rows import Row


@dataclasses.dataclass
class Config(apoptosis.Config):
    """Settings: those of apoptosis, and of the autoencoders.

    Attributes:
        pretrained: How many epochs each autoencoder takes; 0 for none.
    """

    pretrained: int = 2


def autoencoder(inputs: int, width: int) -> keras.Model:
    """Makes a compiled autoencoder of one hidden layer."""
    model = keras.Sequential(
        [
            keras.Input((inputs,)),
            layers.Dense(width, activation="relu", name="encoder"),
            layers.Dense(inputs, name="decoder"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    return model


def run(config: Config) -> Row:
    """Trains layer by layer, then the classifier."""
    data = training.data_of(config)
    x, kernels, logs = data.x_train, [], []
    short = dataclasses.replace(config, epochs=config.pretrained)
    for number, width in enumerate(config.hidden if config.pretrained else ()):
        model, log = training.fit(
            short,
            lambda x=x, width=width: autoencoder(x.shape[1], width),
            x,
            callbacks=pruning(x, config),
            stage=f"autoencoder_{number}",
        )
        encoder = keras.Sequential([keras.Input(x.shape[1:]), model.layers[0]])
        kernels.append(encoder.get_weights())
        x = encoder.predict(x, batch_size=500, verbose=0)
        logs.append(log)

    def build() -> keras.Model:
        widths = [bias.size for _, bias in kernels] or config.hidden
        steps = config.epochs * -(-len(x) // config.batch_size)
        small = dataclasses.replace(config, hidden=widths)
        model = apoptosis.build(data, small, steps)
        dense = [each for each in model.layers if each.weights]
        for layer, weights in zip(dense, kernels, strict=False):
            layer.set_weights(weights)
        return model

    callbacks = pruning(data.x_train, config)
    model, log = training.fit(
        config, build, data.x_train, data.y_train, callbacks=callbacks
    )
    return {
        **apoptosis.judged(model, data),
        "autoencoders": [bias.size for _, bias in kernels],
        "events": sum(not e.skipped for c in callbacks for e in c.history),
        **{
            name: sum(each.times()[name] for each in [*logs, log])
            for name in log.times()
        },
    }


def pruning(x, config: Config) -> list:
    """Returns what prunes a stage: nothing for `plain`."""
    if config.method == "plain":
        return []
    return [apoptosis.apoptosis(x, config)]


table = apoptosis.table
