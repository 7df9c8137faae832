"""Terminal output: progress, notes and errors on standard error, results on standard output.

Each stream is live and coloured if it is a terminal, and plain lines otherwise.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from kdcli.errors import GateFailedError, KdError, ResourceError
from kdcli.sanitize import printable

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress, TaskID
    from rich.text import Text

_SECONDS_BETWEEN_PROGRESS_LINES = 15.0
_PLAIN_WIDTH = 120
# A live line of 80 columns has no room for both losses; the other metrics come per epoch.
_LOSS_METRIC, _VALIDATION_LOSS_METRIC = "loss", "validation loss"
_RATE_METRIC = "rows a second"


class Console:
    """Shows progress, notes, results and errors; a `kdcli.progress.Reporter`.

    Args:
        json_output: Results and errors as one JSON document on standard output.
        quiet: No progress and no notes.
    """

    # The console whose progress line has to end before an error.
    _active_console: "ClassVar[Console | None]" = None

    def __init__(self, *, json_output: bool = False, quiet: bool = False) -> None:
        self.json_output, self.quiet = json_output, quiet
        self._shown_notes: set[str] = set()
        self._progress: Progress | None = None
        self._progress_task: TaskID | None = None
        self._stage, self._description, self._started_at, self._last_line_at = "", "", 0.0, 0.0
        self._metrics: dict[str, float] = {}
        self._run, self._phase, self._has_epochs = _RunProgress({}), (0.0, 1.0), False

    def begin_run(self, stages: Mapping[str, float]) -> None:
        """Begin to count the stages of a run, and to estimate its time."""
        self._run = _RunProgress(stages)

    def start(self, stage: str, description: str) -> None:
        """Start a stage's progress line."""
        self._stage, self._description, self._metrics = stage, printable(description), {}
        self._started_at = self._last_line_at = time.monotonic()
        self._phase, self._has_epochs = (0.0, 1.0), False
        self._run.start(stage)
        if self.quiet:
            return
        if not _is_interactive_terminal(sys.stderr):
            number = self._run.describe_position()
            self._print_line(f"{stage}{f' ({number})' if number else ''}: {description}")
            return
        self._progress = _make_progress_bar(_make_rich_console(sys.stderr), self._run)
        self._progress_task = self._progress.add_task(
            f"{stage:<8}", total=None, figures=self._description
        )
        self._progress.start()
        Console._active_console = self

    def phase(self, description: str, begin: float = 0.0, end: float = 1.0) -> None:
        """Change the words of the stage's progress line, and what share of it is counted."""
        self._description, self._phase = printable(description), (begin, end)
        self._metrics = {}
        self._started_at = time.monotonic()
        self._show_bar(begin)

    def advance(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        """Update the stage's progress line."""
        self._metrics |= metrics or {}
        if self.quiet:
            return
        begin, end = self._phase
        share = begin + (end - begin) * done / max(total, 1)
        self._run.advance(share)
        if self._progress is not None:
            self._show_bar(share)
            return
        now = time.monotonic()
        if now - self._last_line_at >= _SECONDS_BETWEEN_PROGRESS_LINES:
            self._last_line_at = now
            left = (now - self._started_at) / max(done, 1) * (total - done)
            self._print_line(
                f"{self._stage}: {done:,} of {total:,} ({100 * done // total} %)"
                f"{_with_leading_comma(_format_metrics(self._metrics))}, "
                f"{format_duration(left)} left"
            )

    def epoch(self, epoch: int, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Print a row for the epoch, below a header before the first one of a stage."""
        self._metrics |= metrics
        if self.quiet:
            return
        row = {
            "epoch": str(epoch),
            "step": f"{step:,}",
            **{name: _format_metric(name, value) for name, value in metrics.items()},
            "seconds": f"{seconds:,.0f}",
        }
        widths = [max(len(name), 8) for name in row]
        for cells in (row.values(),) if self._has_epochs else (row, row.values()):
            self._print_line("  ".join(map(str.rjust, cells, widths)))
        self._has_epochs, self._last_line_at = True, time.monotonic()

    def finish(self, stage: str, outcome: str, seconds: float) -> None:
        """Finish the stage's progress line."""
        self._run.finish(stage)
        self._close_progress()
        if self.quiet:
            return
        how = "reused" if outcome == "reused" else f"{outcome} in {format_duration(seconds)}"
        last = _format_metrics(_without_losses(self._metrics))
        self._print_line(f"{stage}: {how}{_with_leading_comma(last)}", prefix="✓")
        self._metrics = {}

    def info(self, message: str) -> None:
        """Show a note, once however often it comes up."""
        if self.quiet or message in self._shown_notes:
            return
        self._shown_notes.add(message)
        self._print_line(message, prefix="·")

    def print_error(self, error: KdError) -> None:
        """Show an error with its hint."""
        if Console._active_console is not None:
            Console._active_console._close_progress()
        if self.json_output:
            document = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
            with suppress(ResourceError):
                _write_to_stdout(json.dumps({"error": document}))
        self._print_to_stderr("Error:", str(error), style="bold red")
        for line in error.failed_gates if isinstance(error, GateFailedError) else ():
            self._print_to_stderr("", line)

    def print_result(self, document: Any, plain_text: str = "") -> None:
        """Print the command's result: the document with --json, else the text."""
        self._close_progress()
        if self.json_output:
            # Non-ASCII as \u…: safe for any encoding and any terminal.
            _write_to_stdout(json.dumps(document, indent=2))
        elif plain_text:
            _write_to_stdout(printable(plain_text, keep="\n\t"))

    def print_lines(self, lines: Iterable[str]) -> None:
        """Print lines as they come, until the reader closes the pipe.

        Raises:
            ResourceError: They can't be written.
        """
        try:
            for line in lines:
                _write_and_flush(sys.stdout, line)
        except BrokenPipeError:
            _redirect_to_devnull(sys.stdout)
        except OSError as error:
            _redirect_to_devnull(sys.stdout)
            raise ResourceError(f"Standard output can't be written: {error.strerror}.") from error

    def print_table(
        self,
        document: Any,
        title: str,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        footer: str = "",
    ) -> None:
        """Print a table as the result: its first column is text, the others are numbers."""
        self._close_progress()
        if self.json_output:
            self.print_result(document)
            return
        from rich import box
        from rich.table import Table

        # As Text, so that rich parses no markup.
        table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        table.title = _to_rich_text(title) if title else None
        for i, name in enumerate(header):
            table.add_column(_to_rich_text(name), justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(_to_rich_text, row))
        console = _make_rich_console(sys.stdout)
        with console.capture() as shown:
            console.print(table)
        _write_to_stdout(shown.get() + printable(footer, keep="\n"))

    def _show_bar(self, share: float) -> None:
        if self._progress is None or self._progress_task is None:
            return
        shown = {k: v for k, v in self._metrics.items() if k in (_LOSS_METRIC, _RATE_METRIC)}
        self._progress.update(
            self._progress_task,
            completed=share,
            total=1.0,
            figures=f"{self._description}{_with_leading_comma(_format_metrics(shown))}",
        )

    def _close_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._progress_task = None
            Console._active_console = None

    def _print_line(self, text: str, prefix: str = "") -> None:
        self._print_to_stderr(prefix if _is_interactive_terminal(sys.stderr) else "", text)

    def _print_to_stderr(self, prefix: str, text: str, style: str = "") -> None:
        line = printable(text)
        try:
            if _is_interactive_terminal(sys.stderr):
                console = (
                    self._progress.console if self._progress else _make_rich_console(sys.stderr)
                )
                words = _to_rich_text(prefix, style), _to_rich_text(f" {line}" if prefix else line)
                console.print(*words, sep="", soft_wrap=True)
            else:
                # Without rich: there may be no memory left to import it.
                _write_and_flush(sys.stderr, f"{prefix} {line}".lstrip())
        except OSError:
            # A closed standard error is no reason to stop.
            _redirect_to_devnull(sys.stderr)


class _RunProgress:
    """Progress of a run over its stages, with an estimate of the time left.

    Args:
        stages: The stages in their order, each with its expected relative duration.
    """

    def __init__(self, stages: Mapping[str, float]) -> None:
        self._names, self._weights = [*stages], [*stages.values()]
        self._started_at, self._index, self._share = time.monotonic(), -1, 0.0
        self._is_counted = False

    def start(self, stage: str) -> None:
        """Go on to a stage; one that the run doesn't list, or has passed, isn't counted."""
        later = self._names[self._index + 1 :]
        self._is_counted = stage in later
        if self._is_counted:
            self._index, self._share = self._index + 1 + later.index(stage), 0.0

    def advance(self, share: float) -> None:
        """Set the share of the current stage that is done."""
        if self._is_counted:
            self._share = share

    def finish(self, stage: str) -> None:
        """End a stage, which is not started if it is reused."""
        if stage in self._names[self._index + 1 :]:
            self.start(stage)
        self.advance(1.0)

    def describe_position(self) -> str:
        """Return "2 of 9", or "" outside of a run's stages."""
        if not self._is_counted or len(self._names) == 1:
            return ""
        return f"{self._index + 1} of {len(self._names)}"

    def __str__(self) -> str:
        if not (position := self.describe_position()):
            return ""
        elapsed = time.monotonic() - self._started_at
        current = self._weights[self._index]
        done = sum(self._weights[: self._index]) + self._share * current
        left = sum(self._weights[self._index :]) - self._share * current
        # Before there is something to extrapolate from, a guess would be off by far.
        known = elapsed > 2 and done > 0.02 * (done + left)
        rest = f", about {format_duration(elapsed * left / done)} left" if known else ""
        return f"stage {position}, {format_duration(elapsed)} so far{rest}"


def prepare_standard_streams() -> None:
    """Make the standard streams safe to write to.

    A closed stream is opened on the null device, so that no other file gets its descriptor.
    Characters that a stream's encoding lacks are escaped.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _redirect_to_devnull(stream: Any) -> None:
    """Redirect a broken stream, and the rest of its buffer, to the null device."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def format_duration(seconds: float) -> str:
    """Format seconds as `0.4 s`, `12 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _is_interactive_terminal(stream: Any) -> bool:
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def _make_rich_console(stream: Any) -> "RichConsole":
    from rich.console import Console as RichConsole

    live = _is_interactive_terminal(stream)
    plain = not live or bool(os.environ.get("NO_COLOR"))
    return RichConsole(
        file=stream,
        force_terminal=live,
        no_color=plain,
        color_system=None if plain else "auto",
        highlight=False,
        emoji=False,
        width=None if live else _PLAIN_WIDTH,
    )


def _make_progress_bar(console: "RichConsole", run: _RunProgress) -> "Progress":
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    class StageAndRun(Progress):
        """The bar of the stage, and a line for the run below."""

        def get_renderables(self) -> "Iterable[Any]":
            yield self.make_tasks_table(self.tasks)
            if line := str(run):
                yield _to_rich_text(f"run       {line}", "dim")

    return StageAndRun(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[figures]}", markup=False),
        console=console,
        transient=True,
        refresh_per_second=4,
    )


def _without_losses(metrics: Mapping[str, float] | None) -> dict[str, float]:
    return {
        name: value
        for name, value in (metrics or {}).items()
        if name not in (_LOSS_METRIC, _VALIDATION_LOSS_METRIC, _RATE_METRIC)
    }


def _format_metrics(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_format_metric(name, value)}" for name, value in metrics.items())


def _format_metric(name: str, value: float) -> str:
    from kdcli.evaluation.metrics.metric_catalog import format_metric

    if name in (_LOSS_METRIC, _VALIDATION_LOSS_METRIC):
        return f"{value:.4f}"
    return f"{value:,.0f}" if name == _RATE_METRIC else format_metric(name, value)


def _with_leading_comma(text: str) -> str:
    return f", {text}" if text else ""


def _to_rich_text(text: str, style: str = "") -> "Text":
    from rich.text import Text

    return Text(printable(text), style)


def _write_to_stdout(text: str) -> None:
    """Write a result; failing is an error, unless the reader has closed the pipe."""
    try:
        _write_and_flush(sys.stdout, text)
    except BrokenPipeError:
        _redirect_to_devnull(sys.stdout)
    except OSError as error:
        _redirect_to_devnull(sys.stdout)
        raise ResourceError(f"Standard output can't be written: {error.strerror}.") from error


def _write_and_flush(stream: Any, text: str) -> None:
    stream.write(text if text.endswith("\n") else text + "\n")
    stream.flush()
