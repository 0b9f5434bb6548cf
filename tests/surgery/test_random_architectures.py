"""Promise 1 as a property: random models, random removals.

`RANDOM_ARCHITECTURES=1000` runs as many models instead of a few; each of them
loses units three times, which makes as many cases. `python -m tests.exactness`
runs more of them, in several processes.
"""

import os

import pytest

from tests.cases import part
from tests.exactness import run

COUNT = int(os.environ.get("RANDOM_ARCHITECTURES", 16))


@pytest.mark.parametrize("seed", part(range(COUNT)))
def test_equals_masking_three_times(seed):
    assert run(seed)["wrong"] == []
