"""Share a loaded data set among the stages of a run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdcli.data.dataset_splits import DatasetSplits

_shared: ContextVar["dict[str, DatasetSplits] | None"] = ContextVar("shared", default=None)


@contextmanager
def share_loaded_datasets() -> Iterator[None]:
    """Keep what `load_once` loads until the end of the outermost block."""
    if _shared.get() is not None:
        yield
        return
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def load_once(key: str, load: "Callable[[], DatasetSplits]") -> "DatasetSplits":
    """Load a data set, or return it if it was loaded under the same key within the block."""
    shared = _shared.get()
    if shared is None:
        return load()
    if key not in shared:
        shared[key] = load()
    return shared[key]
