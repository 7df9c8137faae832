"""kd: distil any text classifier into a smaller, faster one."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# The public API is imported on first use: `kd --help` loads neither torch nor transformers.
_MODULES = {"DistillationTrainer": "kdcli.training.trainer"}
_SUBMODULES = ("losses",)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
