"""The only writer to the terminal.

Progress, notes and errors go to standard error; results go to standard output. Each stream is
looked at by itself: live and coloured where it is a terminal, plain lines where it is not.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from kdcli.errors import GateMissedError, KdError, MachineError
from kdcli.outside import printable

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress, TaskID
    from rich.text import Text

_SECONDS_BETWEEN_LINES = 15.0
_PLAIN_WIDTH = 120
# The other figures come at an epoch's end; a live line of 80 columns has no room for both losses.
_LOSS, _LONG = "loss", "validation loss"


class Console:
    """Shows progress, notes, results and errors; it is a `kdcli.progress.Reporter`.

    Args:
        json_output: Results and errors as one JSON document on standard output.
        quiet: No progress and no notes.
    """

    _live: "ClassVar[Console | None]" = None  # the one whose line has to end before an error

    def __init__(self, *, json_output: bool = False, quiet: bool = False) -> None:
        self.json_output, self.quiet = json_output, quiet
        self._said: set[str] = set()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._stage, self._doing, self._started, self._last_line = "", "", 0.0, 0.0
        self._figures: dict[str, float] = {}

    def start(self, stage: str, doing: str) -> None:
        """Begin a stage's line."""
        self._stage, self._doing, self._figures = stage, printable(doing), {}
        self._started = self._last_line = time.monotonic()
        if self.quiet:
            return
        if not _is_live(sys.stderr):
            self._line(f"{stage}: {doing}")
            return
        self._progress = _bar(_rich(sys.stderr))
        self._task = self._progress.add_task(f"{stage:<8}", total=None, figures=self._doing)
        self._progress.start()
        Console._live = self

    def advance(self, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        """Move the stage's line on."""
        self._figures |= figures or {}
        if self.quiet:
            return
        if self._progress is not None and self._task is not None:
            short = {k: v for k, v in self._figures.items() if k != _LONG}
            self._progress.update(
                self._task, completed=done, total=total, figures=_figures(short) or self._doing
            )
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES or _headlines(figures):
            self._last_line = now
            left = (now - self._started) / max(done, 1) * (total - done)
            self._line(
                f"{self._stage}: {done:,} of {total:,} ({100 * done // total} %)"
                f"{_comma(_figures(self._figures))}, {duration(left)} left"
            )

    def finish(self, stage: str, outcome: str, seconds: float) -> None:
        """End a stage's line."""
        self._close()
        if self.quiet:
            return
        how = "reused" if outcome == "reused" else f"{outcome} in {duration(seconds)}"
        last = _figures(_headlines(self._figures))
        self._line(f"{stage}: {how}{_comma(last)}", mark="✓")
        self._figures = {}

    def say(self, message: str) -> None:
        """A note, once however often it comes up."""
        if self.quiet or message in self._said:
            return
        self._said.add(message)
        self._line(message, mark="·")

    def error(self, error: KdError) -> None:
        """An error: a sentence, and the way out."""
        if Console._live is not None:
            Console._live._close()
        if self.json_output:
            document = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
            with suppress(MachineError):
                _deliver(json.dumps({"error": document}))
        self._tell("Error:", str(error), style="bold red")
        for line in error.missed if isinstance(error, GateMissedError) else ():
            self._tell("", line)

    def result(self, document: Any, text: str = "") -> None:
        """The command's result: the document with --json, the text otherwise."""
        self._close()
        if self.json_output:
            # All that is not ASCII as \u…: any stream takes that, and none is steered by it.
            _deliver(json.dumps(document, indent=2))
        elif text:
            _deliver(printable(text, keep="\n\t"))

    def table(
        self,
        document: Any,
        title: str,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        after: str = "",
    ) -> None:
        """A result that is a table: its first column is text, the others are figures."""
        self._close()
        if self.json_output:
            self.result(document)
            return
        from rich import box
        from rich.table import Table

        # As Text: none of it is markup.
        table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        table.title = _text(title) if title else None
        for i, name in enumerate(header):
            table.add_column(_text(name), justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(_text, row))
        console = _rich(sys.stdout)
        with console.capture() as shown:
            console.print(table)
        _deliver(shown.get() + printable(after, keep="\n"))

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None
            Console._live = None

    def _line(self, text: str, mark: str = "") -> None:
        self._tell(mark if _is_live(sys.stderr) else "", text)

    def _tell(self, mark: str, text: str, style: str = "") -> None:
        line = printable(text)
        try:
            if _is_live(sys.stderr):
                console = self._progress.console if self._progress else _rich(sys.stderr)
                words = _text(mark, style), _text(f" {line}" if mark else line)
                console.print(*words, sep="", soft_wrap=True)
            else:
                # Without rich: an error may be that there is no memory to import it.
                _write(sys.stderr, f"{mark} {line}".lstrip())
        except OSError:
            # That nobody listens is no reason to stop.
            _silence(sys.stderr)


def open_streams() -> None:
    """Give the process standard streams that take whatever is written to them.

    A closed one is opened on nothing, so that no other file gets its place; and what a stream's
    encoding lacks is written out.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _silence(stream: Any) -> None:
    """Lead a stream that can't be written into nothing; so goes what is still in its buffer."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def duration(seconds: float) -> str:
    """Seconds as a person says them: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _is_live(stream: Any) -> bool:
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def _rich(stream: Any) -> "RichConsole":
    from rich.console import Console as RichConsole

    live = _is_live(stream)
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


def _bar(console: "RichConsole") -> "Progress":
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[figures]}", markup=False),
        console=console,
        transient=True,
        refresh_per_second=4,
    )


def _headlines(figures: Mapping[str, float] | None) -> dict[str, float]:
    return {name: value for name, value in (figures or {}).items() if name not in (_LOSS, _LONG)}


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _comma(text: str) -> str:
    return f", {text}" if text else ""


def _text(text: str, style: str = "") -> "Text":
    from rich.text import Text

    return Text(printable(text), style)


def _deliver(text: str) -> None:
    """Write a result, whose loss is an error; but for a reader who has gone."""
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        _silence(sys.stdout)
    except OSError as error:
        _silence(sys.stdout)
        raise MachineError(f"Standard output can't be written: {error.strerror}.") from error


def _write(stream: Any, text: str) -> None:
    stream.write(text if text.endswith("\n") else text + "\n")
    stream.flush()
