"""Records what a layer calls when it is called on symbolic tensors."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.backend import compute_output_spec
from keras.src.backend.common.variables import Variable as variable_class
from keras.src.layers import layer as layer_module
from keras.src.ops import operation as operation_module
from keras.src.ops.symbolic_arguments import SymbolicArguments

# What `variable + tensor` and the like mean. Keras' variables hand them to
# the backend, which knows no symbolic tensors.
OPERATORS = {
    "__add__": ops.add,
    "__sub__": ops.subtract,
    "__mul__": ops.multiply,
    "__truediv__": ops.true_divide,
    "__floordiv__": ops.floor_divide,
    "__mod__": ops.mod,
    "__pow__": ops.power,
    "__matmul__": ops.matmul,
}


@dataclasses.dataclass(eq=False)
class Record:
    """One call, recorded as Keras' own nodes are.

    Args:
        operation: What was called.
        args: Positional arguments.
        kwargs: Keyword arguments.
        outputs: The symbolic tensors that it returned.
        inside: The layers whose `call` made this call, outermost first.
        error: Why an opaque layer could not be followed.
        computed: Which of the arguments, in a flat list, were computed of
            weights.
    """

    operation: keras.Operation
    args: tuple
    kwargs: dict[str, Any]
    outputs: list[keras.KerasTensor]
    inside: tuple[keras.Layer, ...] = ()
    error: Exception | None = None
    computed: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self.arguments = SymbolicArguments(*self.args, **self.kwargs)


class Records(list[Record]):
    """Calls in their order.

    Attributes:
        weights: The weight that each symbolic tensor stands in for, by its
            id, with the layers around and the tensor itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[
            int,
            tuple[keras.Variable, tuple[keras.Layer, ...], keras.KerasTensor],
        ] = {}


class ReadVariables(keras.StatelessScope):
    """Gives variables other values, and keeps in mind which were read.

    Args:
        value: Returns the value of a variable, by its shape and dtype;
            `None` for its own.
    """

    def __init__(self, value: Callable[[tuple, str], Any]):
        super().__init__(initialize_variables=False)
        self.given = value
        self.read: dict[int, keras.Variable] = {}

    def get_current_value(self, variable: keras.Variable) -> Any:
        if id(variable) not in self.state_mapping:
            value = self.given(tuple(variable.shape), variable._dtype)
            if value is None:
                return None
            self.read[id(variable)] = variable
            value = ops.convert_to_tensor(np.asarray(value), variable._dtype)
            self.state_mapping[id(variable)] = value
        return self.state_mapping[id(variable)]


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Computes what has no symbolic tensors even inside a compiled step."""
    if keras.backend.backend() == "jax":
        import jax

        with jax.ensure_compile_time_eval():
            yield
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.init_scope():
            yield
    else:
        yield


def _known(structure: Any) -> bool:
    """Returns whether all sizes of all symbolic tensors are known."""
    return not any(
        None in each.shape
        for each in keras.tree.flatten(structure)
        if isinstance(each, keras.KerasTensor)
    )


def _own_weights(layer: keras.Layer) -> dict[str, keras.Variable]:
    """Returns a layer's attributes that are weights of floats."""
    return {
        name: value
        for name, value in layer.__dict__.items()
        if isinstance(value, keras.Variable) and "float" in value.dtype
    }


def _stand_in(
    layer: keras.Layer, variable: keras.Variable
) -> keras.KerasTensor:
    return keras.KerasTensor(
        tuple(variable.shape), dtype_inside(layer, variable)
    )


def dtype_inside(layer: keras.Layer, variable: keras.Variable) -> str:
    """Returns the dtype in which a layer's code sees a weight."""
    if layer.autocast and "float" in variable._dtype:
        return layer.compute_dtype
    return variable._dtype


@contextlib.contextmanager
def recorded(
    opened: Callable[[keras.Layer], bool],
) -> Iterator[Records]:
    """Records calls on symbolic tensors, and runs the code of some layers.

    A layer that is opened leaves no record: what it calls does. One whose
    code fails on symbolic tensors is recorded after all, with the error.
    While its code runs, its own weights are symbolic tensors, too, unless
    that fails. Calls of other threads are left alone, and calls by which a
    layer is built: a `Sequential` then makes a graph of its own.

    Args:
        opened: Says of a layer whether to run its code.

    Yields:
        The records, in the order of the calls.
    """
    me = threading.get_ident()
    records = Records()
    inside: list[keras.Layer] = []
    errors: dict[int, Exception] = {}
    layer_class = layer_module.Layer
    make_node = operation_module.Node
    symbolic_call = layer_class.symbolic_call
    maybe_build = layer_class._maybe_build
    building: list[keras.Layer] = []
    get_item = keras.KerasTensor.__getitem__
    operators = {name: getattr(variable_class, name) for name in OPERATORS}

    def node(
        operation: Any,
        call_args: tuple = (),
        call_kwargs: Mapping[str, Any] | None = None,
        outputs: Any = None,
    ) -> Any:
        if threading.get_ident() != me or building:
            return make_node(operation, call_args, call_kwargs, outputs)
        is_layer = isinstance(operation, keras.Layer)
        error = errors.pop(id(operation), None)
        if is_layer and error is None and opened(operation):
            return None
        found = keras.tree.flatten(outputs)
        if not all(isinstance(each, keras.KerasTensor) for each in found):
            raise ValueError(
                f"'{operation.name}' returns what is no tensor: {found}"
            )
        kwargs = dict(call_kwargs or {})
        if is_layer:  # Every replay says by itself that it is inference.
            kwargs.pop("training", None)
        records.append(
            Record(
                operation, tuple(call_args), kwargs, found, tuple(inside), error
            )
        )
        return None

    def follow(self: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != me or building:
            return symbolic_call(self, *args, **kwargs)
        if not opened(self):
            outputs = symbolic_call(self, *args, **kwargs)
            if not _known(outputs) and _known((args, kwargs)):
                # Some layers say less of their outputs than they could.
                outputs = compute_output_spec(self.call, *args, **kwargs)
            return outputs
        start = len(records)
        inside.append(self)
        try:
            own = _own_weights(self)
            if own:
                for name, variable in own.items():
                    tensor = _stand_in(self, variable)
                    around = tuple(inside)
                    records.weights[id(tensor)] = variable, around, tensor
                    self.__dict__[name] = tensor
                try:
                    return self.call(*args, **kwargs)
                except Exception:  # It wants them as they are.
                    del records[start:]
                finally:
                    self.__dict__.update(own)
            return self.call(*args, **kwargs)
        except Exception as error:  # Whatever its code objects to.
            del records[start:]
            if len(inside) == 1:  # Nothing is left that could be followed.
                raise
            try:
                outputs = symbolic_call(self, *args, **kwargs)
            except Exception:
                raise error from None
            errors[id(self)] = error
            return outputs
        finally:
            inside.pop()

    def build(self: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != me:
            return maybe_build(self, *args, **kwargs)
        building.append(self)
        try:
            return maybe_build(self, *args, **kwargs)
        finally:
            building.pop()

    def operator(name: str) -> Callable[[Any, Any], Any]:
        def call(self: Any, other: Any) -> Any:
            if isinstance(other, keras.KerasTensor):
                return OPERATORS[name](self, other)
            return operators[name](self, other)

        return call

    def item(self: Any, key: Any) -> Any:
        # Keras takes a slice of a symbolic tensor only in a tuple.
        return get_item(self, (key,) if isinstance(key, slice) else key)

    filtering = keras.config.is_traceback_filtering_enabled()
    try:
        keras.config.disable_traceback_filtering()
        layer_module.Node = operation_module.Node = node
        layer_class.symbolic_call = follow
        layer_class._maybe_build = build
        keras.KerasTensor.__getitem__ = item
        for name in OPERATORS:
            setattr(variable_class, name, operator(name))
        yield records
    finally:
        layer_module.Node = operation_module.Node = make_node
        layer_class.symbolic_call = symbolic_call
        layer_class._maybe_build = maybe_build
        keras.KerasTensor.__getitem__ = get_item
        for name, original in operators.items():
            setattr(variable_class, name, original)
        if filtering:
            keras.config.enable_traceback_filtering()
