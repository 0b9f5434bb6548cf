"""Which cases a backend tests, where TensorFlow and JAX take ten times as long.

They trace or compile each model anew, and after each removal once more.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import keras

BACKEND = keras.backend.backend()
# For `Model.compile`, where a test is about what a callback decides: a trace
# takes TensorFlow longer than the few steps. That training is traced anew is
# tested where `compile` has its defaults.
RUN_EAGERLY = BACKEND == "tensorflow"


def combinations(*choices: Iterable[Any]) -> list[tuple]:
    """Returns all combinations on PyTorch, and elsewhere all choices.

    There, each choice is in a combination: on TensorFlow the first of one
    kind with the first of another, and so on.
    """
    lists = [list(each) for each in choices]
    if BACKEND == "torch":
        return list(itertools.product(*lists))
    if BACKEND == "jax":  # Other pairs than TensorFlow has.
        lists[1:] = [each[::-1] for each in lists[1:]]
    longest = max(map(len, lists))
    return [
        tuple(each[number % len(each)] for each in lists)
        for number in range(longest)
    ]


def part(cases: Sequence[Any]) -> Sequence[Any]:
    """Returns all cases on PyTorch, and half of them on each other backend.

    What one leaves out, the other has.
    """
    first = {"tensorflow": 0, "jax": 1}
    return cases if BACKEND == "torch" else cases[first[BACKEND] :: 2]
