"""Small models as in Keras' code examples: what of them can be pruned.

    KERAS_BACKEND=torch python benchmarks/code_examples.py [name ...]

Those of `architectures/`, with random weights, biases and normalizations too.
What is measured: `_pruned_models.py`; `--reasons` lists why groups are not
prunable.
"""

from __future__ import annotations

import keras
from _pruned_models import Case, main, random_inputs, randomize
from architectures import EXAMPLES

LENGTH = 12


def made(name: str) -> Case:
    """Makes one, with random weights."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model, inputs = EXAMPLES[name](), None
    if isinstance(model, tuple):
        model, inputs = model
    randomize(model)
    if inputs is None:
        inputs = random_inputs(model, drawn)
    return Case(model, inputs)


def drawn(tensor, rng):
    shape = [2, *(LENGTH if s is None else s for s in tensor.shape[1:])]
    if "int" in tensor.dtype:
        return rng.integers(1, 40, shape).astype(tensor.dtype)
    return rng.normal(size=shape).astype("float32")


if __name__ == "__main__":
    main("example", EXAMPLES, made, "architectures")
