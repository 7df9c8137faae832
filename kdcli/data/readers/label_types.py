"""Types of label columns that files write as text: whole numbers, fractions, flags or names."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_WHOLE_NUMBER = re.compile(r"[-+]?\d+")


def cast_labels_if_numeric(
    names: "pa.ChunkedArray", python_types: set[type], *, from_text: bool, parse_fractions: bool
) -> "pa.ChunkedArray":
    """Cast labels to numbers or booleans if all of them are; otherwise keep names."""
    import pyarrow as pa
    import pyarrow.compute as pc

    distinct = pc.unique(names)
    typed = (
        _parse_numeric_text(distinct, parse_fractions=parse_fractions)
        if from_text
        else _cast_to_python_types(distinct, python_types)
    )
    if typed.type == pa.string():
        return names
    places = pc.index_in(names, value_set=distinct)
    return pa.chunked_array([typed.take(chunk) for chunk in places.chunks])


def cast_numeric_label_lists(
    lists: "pa.ChunkedArray", python_types: set[type]
) -> "pa.ChunkedArray":
    """Cast lists of labels to lists of numbers if all items are numbers."""
    import pyarrow as pa

    if not python_types or str in python_types:
        return lists
    return lists.cast(pa.list_(pa.int64() if python_types == {int} else pa.float64()))


def convert_decimal_commas(table: "pa.Table", column: str, notes: list[str]) -> "pa.Table":
    """Write a column of numbers such as 4,5 as 4.5; a column with other cells is kept."""
    import pyarrow as pa
    import pyarrow.compute as pc

    distinct = pc.unique(table[column])
    names = distinct.to_pylist()
    changed = replace_decimal_commas(names)
    if changed is None:
        return table
    first = next(name for name in names if name and "," in name)
    notes.append(f"{column}: the comma in {first} is a decimal comma.")
    places = pc.index_in(table[column], value_set=distinct)
    return table.set_column(
        table.column_names.index(column), column, pc.take(pa.array(changed, pa.string()), places)
    )


def replace_decimal_commas(cells: Sequence[Any]) -> list[Any] | None:
    """Write cells such as 4,5 as 4.5; None if there are none, or if a cell is no number."""
    filled = [cell for cell in cells if cell]
    if not any(_DECIMAL_COMMA.fullmatch(cell) for cell in filled) or not all(
        _DECIMAL_COMMA.fullmatch(cell) or _WHOLE_NUMBER.fullmatch(cell) for cell in filled
    ):
        return None
    return [cell and cell.replace(",", ".") for cell in cells]


def _cast_to_python_types(names: "pa.Array", python_types: set[type]) -> "pa.Array":
    import pyarrow as pa

    numbers = {int: pa.int64(), bool: pa.bool_(), float: pa.float64()}
    (only,) = python_types if len(python_types) == 1 else (str,)
    only = float if float in python_types else only
    try:
        return names.cast(numbers[only]) if only in numbers else names
    except pa.ArrowInvalid:
        return names


def _parse_numeric_text(names: "pa.Array", *, parse_fractions: bool) -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    stripped = pc.utf8_trim_whitespace(names)
    try:
        integers = stripped.cast(pa.int64())
        # A label 007 is a name, since its zeros count.
        return integers if integers.cast(pa.string()).equals(stripped) else names
    except pa.ArrowInvalid:
        pass
    try:
        return stripped.cast(pa.float64()) if parse_fractions else names
    except pa.ArrowInvalid:
        return names
