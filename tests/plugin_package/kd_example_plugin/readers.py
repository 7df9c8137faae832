"""A reader of another package."""

from collections.abc import Iterator
from pathlib import Path

from kdcli.data.readers.base import LocatedRow, RowReader
from kdcli.errors import DataError


class PipeReader(RowReader):
    """Files with the ending `.pipe`: one row per line, `label|text`."""

    suffixes = (".pipe",)

    def iterate_rows(self, path: Path, notes: list[str]) -> Iterator[LocatedRow]:
        """Iterate over the lines of a file."""
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                label, separator, text = line.rstrip("\n").partition("|")
                if not separator:
                    raise DataError(f"{path}:{number}: has no | between label and text.")
                yield f"{path}:{number}", {"text": text, "label": label}
