"""One training with removals, the same for any number of processes.

Each process leaves the weights and what else the test asks for in
`FOLDER/NAME-RANK.npz`. Run as `training.py FOLDER NAME...`.
"""

import sys
from pathlib import Path

import devices
import keras
import numpy as np

import keras_apoptosis as ka
from keras_apoptosis.distributed import collectives
from keras_apoptosis.distributed.optimizer import all_reduce_of

numpy = keras.ops.convert_to_numpy
EPOCHS, BATCH = 6, 48
folder, names = Path(sys.argv[1]), sys.argv[2:]
over = devices.scope()  # Before TensorFlow starts.
ka.distributed.init(timeout=60)
rank, size = ka.distributed.rank(), ka.distributed.size()
whole = collectives.sees_all_batches()
primary = ka.distributed.is_primary()

rng = np.random.default_rng(0)
x = rng.normal(size=(480, 16)).astype("float32")
# Few directions matter, so that units are redundant.
y = np.tanh(x[:, :3] @ rng.normal(size=(3, 2))).astype("float32")


class Bytes(keras.callbacks.Callback):
    """Bytes all-reduced in each step, by the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        hook = all_reduce_of(self.model.optimizer)
        if hook is not None:
            self.seen.append((hook.bytes, self.model.count_params()))


def build(*middle):
    # Other weights on each rank: they have to be given by rank 0. JAX shares
    # variables from the beginning, and makes sure that they are the same.
    keras.utils.set_random_seed(0 if whole else rank)
    return keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(64, activation="relu", name="one"),
            *middle,
            keras.layers.Dense(48, activation="relu", name="two"),
            keras.layers.Dense(2),
        ]
    )


def reconstruction(**kwargs):
    return ka.callbacks.NeuronApoptosis(
        tolerance=0.1,
        data=ka.distributed.shard(x),
        schedule=ka.schedules.EveryEpoch(2),
        min_gain=0.0,
        verbose=False,
    )


def plain():
    return build(), keras.optimizers.Adam(0.01), {}, [reconstruction()]


def full():
    return build(), keras.optimizers.SGD(0.1), {}, []


def normalized():
    middle = keras.layers.BatchNormalization(), keras.layers.Dropout(0.1)
    return build(*middle), keras.optimizers.Adam(0.01), {}, [reconstruction()]


def merging():
    model = build()
    model.get_layer("one").kernel.assign(0.01 * model.get_layer("one").kernel)
    apoptosis = ka.callbacks.NeuronApoptosis(
        metric="weights",
        factor=1.2,
        schedule=ka.schedules.EveryEpoch(2),
        min_gain=0.0,
        verbose=False,
    )
    return model, keras.optimizers.Adam(0.01), {}, [apoptosis]


def passes():
    options = {"backward_passes_per_step": 2}
    return build(), keras.optimizers.SGD(0.1), options, [reconstruction()]


def compressed():
    options = {"compression": "fp16"}
    return build(), keras.optimizers.Adam(0.01), options, [reconstruction()]


def scaled():
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=2.0**10
    )
    return build(), optimizer, {}, [reconstruction()]


def saliency():
    method = ka.callbacks.SaliencyPruning(
        "mean_replacement_saliency",
        data=ka.distributed.shard((x, y)),
        schedule=ka.schedules.AtEpochs({2: 0.2, 4: 0.4, 6: 0.5}),
        verbose=False,
    )
    return build(), keras.optimizers.Adam(0.01), {}, [method]


def stripping():
    model = build()
    model.get_layer("one").bias.assign(np.repeat([-9.0, 0.0], 32))
    model = ka.make_prunable(model, track_statistics=True)
    strip = ka.callbacks.SynapticStripping(share=0.3, data="training")
    return model, keras.optimizers.Adam(0.01), {}, [strip]


def demon():
    method = ka.callbacks.DemonPruning(
        0.1,
        noise_variance=1e-5,
        schedule=ka.schedules.Fixed(0.35, start=0.3),
        threshold=0.05,
        data=ka.distributed.shard(x),
        verbose=False,
    )
    return build(), keras.optimizers.Adam(0.01), {}, [method]


def data():
    if devices.MIRRORED:  # Keras drops some batches of a generator there.
        return {"x": x, "y": y, "batch_size": BATCH}
    batches = ka.distributed.shuffled_batches(x, y, batch_size=BATCH)
    return {"x": batches, "steps_per_epoch": len(x) // BATCH}


class Momentum(keras.callbacks.Callback):
    """Averages over samples by the one function for it, and shrinks by it."""

    def on_epoch_end(self, epoch, logs=None):
        data = ka.distributed.shard(x)
        found = ka.unit_statistics(self.model, data)["two"]["two"]
        self.pooled = found.count, found.mean, found.variance


def run(name, folder):
    model, optimizer, options, callbacks = globals()[name]()
    optimizer = ka.distributed.DistributedOptimizer(optimizer, **options)
    model.compile(optimizer, "mse")
    counted, pooled = Bytes(), Momentum()
    history = model.fit(
        **data(),
        shuffle=False,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[
            ka.distributed.BroadcastInitialState(),
            *callbacks,
            pooled,
            counted,
            ka.distributed.MetricAverage(),
        ],
    )
    count, mean, variance = pooled.pooled
    extra = {}
    if name == "normalized":
        recalibrated = ka.recalibrate(model, ka.distributed.shard(x))
        inputs = numpy(model.layers[0](x))
        normalization = model.layers[1]
        extra = {
            "samples": recalibrated.samples,
            "inputs": inputs,
            "moving_mean": numpy(normalization.moving_mean),
            "moving_variance": numpy(normalization.moving_variance),
        }
    np.savez(
        folder / f"{name}-{rank}.npz",
        *[numpy(each) for each in model.variables],
        *[numpy(v) for v in model.optimizer.variables],
        loss=history.history["loss"],
        events=sum(
            not getattr(event, "skipped", "")
            for event in (callbacks[0].history if callbacks else [])
        ),
        parameters=model.count_params(),
        bytes=counted.seen,
        count=count,
        mean=mean,
        variance=variance,
        **extra,
    )
    if primary:
        path = folder / f"{name}.keras"
        with ka.distributed.alone():
            model.save(path)


# With several devices first on one of them, then on all.
on_one = folder
if devices.COUNT > 1:
    on_one /= "trained-ordered" if devices.MIRRORED else "trained-one"
for each in names:
    run(each, on_one)
    if primary:
        print("done", each, flush=True)
if devices.COUNT > 1:
    with over:
        for each in names:
            run(each, folder / "trained-devices")
