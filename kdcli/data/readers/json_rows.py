"""Rows of jsonl and json files, each with the file and line, or item, that it stands in."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdcli.data.readers.base import BadRowHandler, LocatedRow, RowReader, report_bad_row
from kdcli.data.readers.text_lines import detect_bom_encoding, iterate_lines
from kdcli.errors import DataError

_JSON_ROW_HINT = 'A row is an object such as {"text": "…", "label": "…"}.'


class JsonReader(RowReader):
    """One JSON object a line, or one list of objects; the suffix makes no difference.

    Lines are read one after the other. A list is parsed as a whole, so that it has to fit in
    memory, together with its text: write large data as jsonl.
    """

    suffixes = (".jsonl", ".json")
    compressible = True

    def iterate_rows(
        self, path: Path, notes: list[str], on_bad_row: BadRowHandler | None = None
    ) -> Iterator[LocatedRow]:
        """Iterate over the objects; blank lines are skipped."""
        return _iterate_json_rows(path, on_bad_row)


def _iterate_json_rows(path: Path, on_bad_row: BadRowHandler | None) -> Iterator[LocatedRow]:
    numbered = enumerate(iterate_lines(path, detect_bom_encoding(path)), start=1)
    first = True
    for number, line in numbered:
        if not line.strip():
            continue
        if first and line.lstrip().startswith("["):
            # One list of all rows.
            items = _parse_json(line + "".join(more for _, more in numbered), path, number)
            for i, item in enumerate(items, start=1):
                try:
                    row = _validate_json_row(item, f"{path}, item {i}")
                except DataError as error:
                    report_bad_row(error, on_bad_row)
                    continue
                yield row
            return
        first = False
        try:
            value = _parse_json(line.rstrip(), path, number)
            row = _validate_json_row(value, f"{path}:{number}")
        except DataError as error:
            report_bad_row(error, on_bad_row)
            continue
        yield row


def _validate_json_row(value: Any, location: str) -> LocatedRow:
    if not isinstance(value, dict):
        raise DataError(f"{location}: is no JSON object.", _JSON_ROW_HINT)
    return location, value


def _parse_json(text: str, path: Path, line: int) -> Any:
    """Parse the JSON value that begins in a line."""
    try:
        return json.loads(text, object_pairs_hook=_reject_duplicate_keys)
    except json.JSONDecodeError as error:
        where = f"{path}:{line + error.lineno - 1}"
        reason = error.msg.removesuffix(" at").removesuffix(" starting")
        raise DataError(f"{where}: is not JSON: {reason}.", _JSON_ROW_HINT) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{line}: can't be read: {error}.") from error


def _reject_duplicate_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    keys_and_values = dict(pairs)
    if len(keys_and_values) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {duplicate} is there twice")
    return keys_and_values
