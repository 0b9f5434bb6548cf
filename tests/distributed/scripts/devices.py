"""Puts one process on several virtual devices, as `DEVICES` says."""

import contextlib
import os

import keras

COUNT = int(os.environ.get("DEVICES", "1"))
MIRRORED = COUNT > 1 and keras.backend.backend() == "tensorflow"


def scope():
    """What models are to be made in; call it before anything else."""
    if COUNT == 1:
        return contextlib.nullcontext()
    if keras.backend.backend() == "jax":  # `XLA_FLAGS` makes the devices.
        assert len(keras.distribution.list_devices()) == COUNT
        return keras.distribution.DataParallel().scope()
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * COUNT
    tf.config.set_logical_device_configuration(cpu, parts)
    devices = [f"CPU:{number}" for number in range(COUNT)]
    return tf.distribute.MirroredStrategy(devices).scope()
