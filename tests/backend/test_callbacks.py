"""Callbacks find those that run beside them."""

import keras
import numpy as np

from keras_apoptosis.backend.callbacks import callbacks_beside


class Looks(keras.callbacks.Callback):
    found = None

    def on_train_begin(self, logs=None):
        self.found = callbacks_beside(self)


def fit(*callbacks):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((1, 1))
    model.fit(x, x, verbose=0, callbacks=list(callbacks))


def test_the_other_callbacks_of_the_same_fit():
    looks = Looks()
    first, second = (keras.callbacks.TerminateOnNaN() for _ in range(2))
    fit(first, looks)
    assert [e for e in looks.found if e in (first, second)] == [first]
    # Those of an earlier `fit`, which may still be alive, are left out.
    fit(looks, second)
    assert [e for e in looks.found if e in (first, second)] == [second]
    assert any(isinstance(e, keras.callbacks.History) for e in looks.found)


def test_a_list_of_callbacks_that_the_user_made():
    looks, other = Looks(), keras.callbacks.TerminateOnNaN()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    made = keras.callbacks.CallbackList(
        [looks, other],
        add_history=True,
        model=model,
        epochs=1,
        verbose=0,
        steps=1,
    )
    model.fit(np.ones((1, 1)), np.ones((1, 1)), verbose=0, callbacks=made)
    assert looks.found[0] is other
    assert len(looks.found) == 2
