"""Work inside the compiled training step, around the optimizer's update.

`optimizer.apply` is the one place that every backend runs within its compiled
step. A hook is called there: before the update with the gradients, after it
with the weights. Reducing gradients over workers, regularizing them, noise and
masks on weights are hooks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_apoptosis import backend


class StepHook:
    """Base of what runs inside the compiled step, around the update.

    A hook reads nothing in `before` and `after` that changes between steps
    but the weights, `self.steps` and variables it made by
    `add_variable`: on JAX anything else is the number it was when the step
    was traced. To change one of its variables between steps, assign it and
    call `backend.sync_to_jax(model)`.

    Attributes:
        optimizer: The optimizer whose update it surrounds. Of one that scales
            the loss it is the inner one: gradients are as they are meant,
            and steps that are skipped are skipped here too.
        first: Whether the hook comes before all others, and outside of an
            optimizer that scales the loss: it then sees scaled gradients,
            and runs in steps that are skipped, too. What waits for other
            workers must, or not all would come. (JAX scales the loss
            elsewhere, and does not call it then.)
    """

    first: bool = False
    optimizer: keras.Optimizer
    _outer: keras.Optimizer

    @property
    def steps(self) -> keras.Variable:
        """Number of steps done, those that only accumulate gradients included.

        Live in the compiled step: before the update it does not count the
        present step, after it does.
        """
        return backend.steps_of(self.optimizer)

    def build(self, weights: Sequence[keras.Variable]) -> None:
        """Makes the variables of the hook.

        Called when it is attached, and again whenever weights changed shape,
        after its old variables were dropped.

        Args:
            weights: The weights that the optimizer trains.
        """

    def before(
        self, gradients: list[Any], weights: list[keras.Variable]
    ) -> list[Any]:
        """Returns the gradients to use; called before the update.

        Args:
            gradients: One for each of the weights; `None` for a weight that
                the loss does not depend on.
            weights: The weights, not yet updated.

        Returns:
            As many gradients.
        """
        return gradients

    def after(self, weights: list[keras.Variable]) -> None:
        """Runs after the update; it may assign the weights.

        Args:
            weights: The weights, updated.
        """

    def add_variable(self, value: Any, dtype: Any = None) -> keras.Variable:
        """Makes a variable that is live in the compiled step.

        It is not saved with the optimizer.

        Args:
            value: Its first value, an array.
            dtype: Its type; that of floats by default.
        """
        return backend.add_unsaved_variable(self._outer, value, dtype)


def attach(model: keras.Model, hook: StepHook) -> Callable[[], None]:
    """Lets a hook run in each training step of a model.

    It may be called before `fit` or from a callback, also in the middle of an
    epoch; the step is traced anew. Of several hooks those that were attached
    last come first in `before` and last in `after`; one that is `first`
    comes before all.

    Args:
        model: A compiled model.
        hook: The hook.

    Returns:
        What takes the hook off again.

    Raises:
        ValueError: If the model is not compiled.
    """
    optimizer = _optimizer_of(model)
    _bind(optimizer, [*hooks_of(optimizer), hook])
    _renew(model)

    def detach() -> None:
        left = [each for each in hooks_of(optimizer) if each is not hook]
        backend.sync_from_jax(model)
        _bind(optimizer, left)
        if getattr(model, "optimizer", None) is optimizer:
            _renew(model)

    return detach


def attach_for_fit(model: keras.Model, hook: StepHook) -> Callable[[], None]:
    """Lets a hook run until the present `fit` ends, however it ends.

    A `fit` that is interrupted, or that another callback breaks, calls no
    `on_train_end`. Then the hook is taken off when the next `fit` begins:
    before it calls any callback, `fit` asks the model for its compiled step.

    Args:
        model: A compiled model, in `fit`.
        hook: The hook.

    Returns:
        A function that takes the hook off.
    """
    detach = attach(model, hook)
    guards = model.__dict__.get("_ends_hooks")
    if guards is None:
        guards = _EndsHooks(model)
        backend.set_attributes(
            model, {"_ends_hooks": guards, "make_train_function": guards}
        )
    guards.detach.append(detach)

    def end() -> None:
        guards.end(detach)

    return end


class _EndsHooks:
    """Stands in for a model's `make_train_function` while hooks are on."""

    def __init__(self, model: keras.Model):
        self.model = model
        self.detach: list[Callable[[], None]] = []

    def __call__(self, force: bool = False) -> Any:
        # With `force` it is this package that asks, in the middle of a `fit`.
        for each in [] if force else list(self.detach):
            self.end(each)
        make = type(self.model).make_train_function
        return make(self.model, force=force)

    def end(self, detach: Callable[[], None]) -> None:
        """Takes one hook off, and itself with the last."""
        if detach not in self.detach:
            return
        self.detach.remove(detach)
        if not self.detach:
            for name in ("_ends_hooks", "make_train_function"):
                self.model.__dict__.pop(name, None)
        detach()


def place(optimizer: keras.Optimizer, hook: StepHook) -> None:
    """Gives a hook to an optimizer that no model was compiled with yet.

    The hook is built once `settle` is called with the model.

    Args:
        optimizer: An optimizer, built or not.
        hook: The hook.
    """
    _bind(optimizer, [*hooks_of(optimizer), hook])


def settle(model: keras.Model) -> None:
    """Builds the optimizer of a model, and hooks that were only placed.

    Args:
        model: A compiled model.

    Raises:
        ValueError: If the model is not compiled.
    """
    optimizer = _optimizer_of(model)
    _bind(optimizer, hooks_of(optimizer))
    _renew(model)


def hooks_of(optimizer: keras.Optimizer) -> list[StepHook]:
    """Returns the hooks of an optimizer, in the order they were attached."""
    found: list[StepHook] = []
    for each in {id(o): o for o in _places(optimizer)}.values():
        apply = each.__dict__.get("apply")
        if isinstance(apply, _HookedApply):
            found += apply.hooks
    return found


@contextlib.contextmanager
def without_hooks(optimizer: keras.Optimizer | None) -> Iterator[None]:
    """Takes hooks and their variables off while weights change shape."""
    hooks = hooks_of(optimizer) if optimizer is not None else []
    if not hooks:
        yield
        return
    _bind(optimizer, [])
    try:
        yield
    finally:
        _bind(optimizer, hooks)


class _HookedApply:
    """Stands in for an optimizer's `apply`."""

    def __init__(self, optimizer: keras.Optimizer, hooks: list[StepHook]):
        self.optimizer = optimizer
        self.hooks = hooks

    def __call__(self, grads: Any, trainable_variables: Any = None) -> None:
        weights = (
            backend.weights_of(self.optimizer)
            if trainable_variables is None
            else list(trainable_variables)
        )
        # Hooks see the gradients of all replicas. The optimizer sums over
        # them once more.
        gradients, replicas = backend.sum_over_replicas(grads)
        for hook in reversed(self.hooks):
            gradients = hook.before(gradients, weights)
        if replicas > 1:
            gradients = [
                None if each is None else each / replicas for each in gradients
            ]
        type(self.optimizer).apply(self.optimizer, gradients, weights)

        def after() -> None:
            for hook in self.hooks:
                hook.after(weights)

        backend.for_all_replicas(after)


def _bind(optimizer: keras.Optimizer, hooks: list[StepHook]) -> None:
    backend.drop_unsaved_variables(optimizer)
    inner, outer = _places(optimizer)
    for each in (inner, outer):
        each.__dict__.pop("apply", None)
    # What comes last in the list of an optimizer comes first in `before`.
    for hook in sorted(hooks, key=lambda each: each.first):
        place = outer if hook.first else inner
        hook.optimizer, hook._outer = place, optimizer
        if outer.built:
            hook.build(backend.weights_of(inner))
        apply = place.__dict__.get("apply") or _HookedApply(place, [])
        apply.hooks.append(hook)
        backend.set_attributes(place, {"apply": apply})


def _optimizer_of(model: keras.Model) -> keras.Optimizer:
    """Returns the model's optimizer, built, with JAX' values synchronized."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError(
            "Expected a model that is compiled with an optimizer. Received: "
            f"model '{model.name}', not compiled"
        )
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    backend.sync_from_jax(model)
    return optimizer


def _places(
    optimizer: keras.Optimizer,
) -> tuple[keras.Optimizer, keras.Optimizer]:
    """Returns where hooks can be: on the innermost and outermost optimizer."""
    return backend.innermost(optimizer), optimizer


def _renew(model: keras.Model) -> None:
    backend.forget_compiled(model)
    backend.sync_to_jax(model)
