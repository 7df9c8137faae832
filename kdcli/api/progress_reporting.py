"""Progress of work that is called from Python: to the logger `kdcli`, or to a callback."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from kdcli import distributed
from kdcli.progress import Reporter, SilentReporter

ProgressCallback = Callable[[str, int, int, Mapping[str, float] | None], object]

_LOGGER = logging.getLogger("kdcli")
# Progress bars and messages that the libraries write to the terminal unless these are set.
QUIET_ENVIRONMENT = {
    "DATASETS_VERBOSITY": "critical",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
}


class LoggingReporter:
    """Log stages and messages at level INFO, and pass steps to a callback.

    Args:
        progress: Called as `progress(stage, done, total, metrics)`; an exception that it raises
            stops the run.
    """

    def __init__(self, progress: ProgressCallback | None = None) -> None:
        self.progress, self.stage = progress, ""

    def begin_run(self, stages: Mapping[str, float]) -> None:
        """Do nothing."""

    def start(self, stage: str, description: str) -> None:
        """Log that a stage starts."""
        self.stage = stage
        _LOGGER.info("%s: %s", stage, description)

    def advance(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """Pass a step to the callback."""
        if self.progress is not None:
            self.progress(self.stage, done, total, metrics)

    def phase(self, description: str, begin: float = 0.0, end: float = 1.0) -> None:
        """Log the next part of a stage."""
        _LOGGER.info("%s: %s", self.stage, description)

    def epoch(self, epoch: int, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Log the losses and the validation metric of an epoch."""
        values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        _LOGGER.info("%s: epoch %d, step %d, %s", self.stage, epoch, step, values)

    def finish(self, stage: str, outcome: str, seconds: float) -> None:
        """Log that a stage is over."""
        _LOGGER.info("%s: %s (%.1f s)", stage, outcome, seconds)

    def info(self, message: str) -> None:
        """Log a message."""
        _LOGGER.info("%s", message)


def choose_reporter(
    reporter: Reporter | None, progress: ProgressCallback | None = None
) -> Reporter:
    """Return the reporter to use: only the first of several processes reports."""
    if not distributed.is_main_process():
        return SilentReporter()
    return LoggingReporter(progress) if reporter is None else reporter


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within the block transformers, datasets and huggingface_hub write nothing by themselves.

    Libraries that are loaded within it stay quiet afterwards.
    """
    added = [name for name in QUIET_ENVIRONMENT if name not in os.environ]
    os.environ.update({name: QUIET_ENVIRONMENT[name] for name in added})
    with ExitStack() as undo, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        undo.callback(lambda: [os.environ.pop(name, None) for name in added])
        for library in ("transformers", "datasets", "huggingface_hub"):
            if library in sys.modules:
                _silence(library, undo)
        yield


def _silence(library: str, undo: ExitStack) -> None:
    from importlib import import_module

    log = import_module(f"{library}.utils.logging")
    undo.callback(log.set_verbosity, log.get_verbosity())
    log.set_verbosity_error()
    bars = log if library == "transformers" else import_module(f"{library}.utils")
    on, off = (
        (bars.enable_progress_bar, bars.disable_progress_bar)
        if library == "transformers"
        else (bars.enable_progress_bars, bars.disable_progress_bars)
    )
    shown = (
        log.is_progress_bar_enabled()
        if library == "transformers"
        else not bars.are_progress_bars_disabled()
    )
    if shown:
        off()
        undo.callback(on)
