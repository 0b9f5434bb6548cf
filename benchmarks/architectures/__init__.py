"""Small architectures in the manner of Keras' code examples.

Layers and models as people write them for one model: with a `call` of their
own, most with `get_config`, some without. A function makes each, with its own
small widths; one that makes a subclassed model returns the data it was built
with, too.
"""

from __future__ import annotations

from architectures import images, others, pixels, text

EXAMPLES = {
    **images.EXAMPLES,
    **pixels.EXAMPLES,
    **text.EXAMPLES,
    **others.EXAMPLES,
}
