"""How many examples a property test tries, and how its failures are repeated."""

import os
from pathlib import Path

from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

_TIMES = int(os.environ.get("KD_EXAMPLES", "1"))
_KEPT = Path(__file__).parents[1] / ".hypothesis/examples"

# A failure prints the `@reproduce_failure` that repeats it, and the next run tries it first.
# Under CI the examples are the same each time. A busy machine is slow: there is no deadline.
_SAME = bool(os.environ.get("CI"))
settings.register_profile(
    "kd",
    deadline=None,
    print_blob=True,
    derandomize=_SAME,
    database=None if _SAME else DirectoryBasedExampleDatabase(_KEPT),
    max_examples=30 * _TIMES,
)
settings.load_profile("kd")


def examples(count: int) -> settings:
    """Decorate a property test to try `count` examples, times the variable KD_EXAMPLES."""
    return settings(max_examples=count * _TIMES)
