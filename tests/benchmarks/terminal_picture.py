"""Draw docs/terminal.svg from a real run of `kd distill quickstart`, in a terminal of 80 columns.

Run it on an idle machine, because the picture shows the times of the stages:

    python tests/benchmarks/terminal_picture.py docs/terminal.svg
"""

import fcntl
import io
import os
import pty
import re
import struct
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

COMMAND = ("kd", "distill", "quickstart")
COLUMNS = 80
_TOKEN = re.compile(r"\x1b\[([\d;?]*)([A-Za-z])|\r|\n|[^\x1b]")


def record(folder: str) -> str:
    """Run the command in a terminal of its own, and return what it writes."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES="40")
        os.execvp(COMMAND[0], COMMAND)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    written = b""
    try:
        while piece := os.read(terminal, 65536):
            written += piece
    except OSError:  # the command has closed the terminal
        pass
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise SystemExit(written.decode(errors="replace"))
    return written.decode()


def lines_at_the_end(written: str) -> list[str]:
    """Return the lines that stay: cursor movements and erased lines are followed, colours not."""
    lines: list[list[str]] = [[]]
    row = column = 0
    for token in _TOKEN.finditer(written):
        if token[2] == "A":
            row = max(0, row - int(token[1] or 1))
        elif token[2] == "K":
            lines[row] = []
        elif token[0] == "\r":
            column = 0
        elif token[0] == "\n":
            row += 1
            lines += [] if row < len(lines) else [[]]
        elif token[2] is None:
            lines[row] += [" "] * (column + 1 - len(lines[row]))
            lines[row][column] = token[0]
            column += 1
    return "\n".join("".join(line).rstrip() for line in lines).strip("\n").split("\n")


def main() -> None:
    """Draw the picture."""
    with tempfile.TemporaryDirectory() as folder:
        lines = lines_at_the_end(record(folder))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {' '.join(COMMAND)}", style="bold"))
    for line in lines:
        console.print(Text(line))
    Path(sys.argv[1]).write_text(console.export_svg(title=" ".join(COMMAND)), encoding="utf-8")


if __name__ == "__main__":
    main()
