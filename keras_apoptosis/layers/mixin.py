"""The base of mixins for Keras layers."""

from __future__ import annotations

from typing import Any

# A mixin stands before a Keras layer in a list of bases, and uses attributes
# and methods of that layer.
LayerMixin: Any = object
