"""Gradients and Hessian-vector products by each backend's own means.

The one place that knows how TensorFlow, JAX and PyTorch differentiate. Where
a second derivative does not exist, as at the kink of a ReLU, it is what the
backend takes it to be: zero.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops


def value_and_gradients(
    function: Callable[[list[Any]], tuple[Any, Any]], tensors: Sequence[Any]
) -> tuple[Any, Any, list[Any]]:
    """Differentiates a scalar function of several tensors.

    Args:
        function: Takes a list of tensors and returns a scalar and anything
            else that is of use.
        tensors: Where to differentiate: arrays or tensors of floats.

    Returns:
        The scalar, what else the function returned, and the gradient with
        respect to each tensor; zero where the scalar does not depend on it.

    Example:

    >>> from keras_apoptosis.backend.gradients import value_and_gradients
    >>> square = lambda tensors: (keras.ops.sum(tensors[0] ** 2), None)
    >>> value, _, (gradient,) = value_and_gradients(square, [np.ones(3)])
    >>> float(value), keras.ops.convert_to_numpy(gradient).tolist()
    (3.0, [2.0, 2.0, 2.0])
    """
    tensors = _leaves(tensors)
    if keras.backend.backend() == "jax":
        import jax

        (value, more), gradients = jax.value_and_grad(function, has_aux=True)(
            tensors
        )
        return value, more, gradients
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensors)
            value, more = function(tensors)
        return value, more, _tf_gradients(tape, value, tensors)
    with _gradients_on():
        value, more = function(tensors)
        return value.detach(), more, _torch_gradients(value, tensors)


def hessian_products(
    function: Callable[[list[Any]], Any],
    tensors: Sequence[Any],
    vectors: Sequence[Any],
) -> tuple[list[Any], list[Any]]:
    """Multiplies the Hessian of a scalar function by a vector.

    It takes a few times as long as a gradient, whatever the size of the
    Hessian, which is never made (Pearlmutter, 1994).

    Args:
        function: Takes a list of tensors and returns a scalar.
        tensors: Where to differentiate.
        vectors: The vector, in parts of the shapes of `tensors`.

    Returns:
        The gradient and the product, each in parts of the same shapes.

    Example:

    >>> from keras_apoptosis.backend.gradients import hessian_products
    >>> cube = lambda tensors: keras.ops.sum(tensors[0] ** 3)
    >>> _, (product,) = hessian_products(cube, [np.ones(2)], [np.ones(2)])
    >>> keras.ops.convert_to_numpy(product).tolist()
    [6.0, 6.0]
    """
    tensors = _leaves(tensors)
    vectors = [
        ops.convert_to_tensor(vector, dtype=tensor.dtype)
        for vector, tensor in zip(vectors, tensors, strict=True)
    ]
    if keras.backend.backend() == "jax":
        import jax

        return jax.jvp(jax.grad(function), (tensors,), (vectors,))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(tensors)
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(tensors)
                value = function(tensors)
            first = _tf_gradients(inner, value, tensors)
        return first, _tf_gradients(outer, first, tensors, vectors)
    with _gradients_on():
        value = function(tensors)
        first = _torch_gradients(value, tensors, create_graph=True)
        second = _torch_gradients(first, tensors, vectors)
        return [each.detach() for each in first], second


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function of tensors, on backends that can.

    Everything that changes between calls must be an argument.

    Args:
        function: Takes and returns structures of tensors.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # TensorFlow warns of many traces of one piece of code; each call here
        # makes a function of its own, which a partial tells it.
        return tf.function(functools.partial(function), reduce_retracing=True)
    return function


@contextlib.contextmanager
def no_gradients() -> Iterator[None]:
    """Records nothing for derivatives within this context."""
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            yield
    else:  # TensorFlow and JAX record nothing outside a tape or transform.
        yield


def _leaves(tensors: Sequence[Any]) -> list[Any]:
    leaves = [ops.convert_to_tensor(tensor) for tensor in tensors]
    if keras.backend.backend() == "torch":
        return [leaf.detach().requires_grad_() for leaf in leaves]
    return leaves


def _tf_gradients(
    tape: Any, target: Any, tensors: Any, vectors: Any = None
) -> list[Any]:
    found = tape.gradient(
        target,
        tensors,
        output_gradients=vectors,
        unconnected_gradients="zero",
    )
    return [ops.convert_to_tensor(each) for each in found]


def _gradients_on() -> Any:
    import torch

    return torch.enable_grad()


def _torch_gradients(
    target: Any,
    tensors: Sequence[Any],
    vectors: Any = None,
    create_graph: bool = False,
) -> list[Any]:
    import torch

    targets = [target] if vectors is None else target
    if vectors is not None:  # A gradient may not depend on anything.
        kept = [each.requires_grad for each in targets]
        targets = [t for t, k in zip(targets, kept, strict=True) if k]
        vectors = [v for v, k in zip(vectors, kept, strict=True) if k]
    if not any(each.requires_grad for each in targets):
        return [torch.zeros_like(each) for each in tensors]
    return list(
        torch.autograd.grad(
            targets,
            tensors,
            vectors,
            create_graph=create_graph,
            materialize_grads=True,
        )
    )
