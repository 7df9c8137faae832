"""Data of the running program as a data set that a recipe can name.

A recipe names its data by a path, and stages are cached by the content behind it. Data in memory
is therefore written to a folder of `save_to_disk` that is named by its content.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.data import mmap_tables
from kdcli.errors import DataError, first_message_line

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_FOLDER_NAME = "kd-in-memory"
# The content is hashed and written in batches of this size, however the data is chunked.
_BATCH_ROWS = 10_000


def register_dataset(data: Any) -> str:
    """Make data in memory usable wherever a recipe's `data.dataset` names a file or folder.

    Types stay as they are: ClassLabels, missing labels, and labels that are int, float or text.
    Categorical columns become their categories; the index of a pandas frame is left out. The same
    content gives the same folder, in a later session too.

    Args:
        data: A pandas or polars frame, a pyarrow table, a `datasets.Dataset`, or another object
            that exports Arrow (`__arrow_c_stream__`): the texts to train on. A `DatasetDict`, or
            another mapping from split names to any of these: several splits.

    Returns:
        The path of the folder, below the cache of `datasets` (HF_DATASETS_CACHE).

    Raises:
        DataError: The data is of another type, is empty, or has a column of mixed types.
    """
    from datasets import DatasetDict, config

    splits = data if isinstance(data, Mapping) else {"train": data}
    tables = {str(name): _to_dataset(split) for name, split in splits.items()}
    if not any(map(len, tables.values())):
        raise DataError("The data in memory has no rows.")
    hashes = {name: _content_hash(split) for name, split in tables.items()}
    content = json.dumps([isinstance(data, Mapping), hashes])
    folder = Path(
        config.HF_DATASETS_CACHE, _FOLDER_NAME, hashlib.sha256(content.encode()).hexdigest()
    )
    if folder.is_dir():
        return str(folder)
    saved = {name: _canonical_dataset(split, hashes[name]) for name, split in tables.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    new_folder = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        to_save = DatasetDict(saved) if isinstance(data, Mapping) else saved["train"]
        to_save.save_to_disk(str(new_folder))
        # Another process may have published the same content in the meantime.
        with suppress(OSError):
            new_folder.rename(folder)
    finally:
        shutil.rmtree(new_folder, ignore_errors=True)
    return str(folder)


def _to_dataset(data: Any) -> "Dataset":
    import pyarrow as pa
    from datasets import Dataset

    if isinstance(data, Dataset):
        return data
    try:
        table = _to_arrow(data)
        return Dataset(
            table.cast(pa.schema(map(_plain_field, table.schema), table.schema.metadata))
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"The {type(data).__name__} can't be used as data: {first_message_line(error)}",
            "Give each column values of one type.",
        ) from error


def _to_arrow(data: Any) -> "pa.Table":
    import pyarrow as pa

    if isinstance(data, pa.Table):
        return data
    if type(data).__module__.partition(".")[0] == "pandas":
        # The metadata is for pandas alone, and names its version.
        table = pa.Table.from_pandas(data, preserve_index=False)
        return table.replace_schema_metadata(None)
    if hasattr(data, "__arrow_c_stream__"):
        return pa.table(data)
    raise DataError(
        f"A {type(data).__module__}.{type(data).__name__} can't be used as data.",
        "Pass a pandas or polars frame, a pyarrow table, a Dataset or DatasetDict, or a dict of "
        "these by split name.",
    )


def _plain_field(field: "pa.Field") -> "pa.Field":
    return field.with_type(_plain_type(field.type))


def _plain_type(arrow_type: "pa.DataType") -> "pa.DataType":
    """The type that `datasets` knows for types that frames export."""
    import pyarrow as pa

    if pa.types.is_dictionary(arrow_type):
        return _plain_type(arrow_type.value_type)
    if pa.types.is_large_list(arrow_type) or pa.types.is_list(arrow_type):
        return pa.list_(_plain_type(arrow_type.value_type))
    return pa.large_string() if str(arrow_type) == "string_view" else arrow_type


def _content_hash(dataset: "Dataset") -> str:
    """SHA-256 of a data set's features and rows, whatever its chunks and history."""
    import pyarrow as pa

    sink = _HashSink(json.dumps(dataset.features.to_dict()))
    schema = dataset.features.arrow_schema.remove_metadata()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema) as writer:
        for batch in _canonical_batches(dataset):
            writer.write_batch(batch)
    return sink.digest()


class _HashSink:
    """A binary file that keeps only the hash of what is written."""

    closed = False

    def __init__(self, prefix: str) -> None:
        self._hash = hashlib.sha256(prefix.encode())

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def close(self) -> None:
        """Do nothing: the hash stays readable."""

    def digest(self) -> str:
        return self._hash.hexdigest()


def _canonical_batches(dataset: "Dataset") -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa

    schema = dataset.features.arrow_schema.remove_metadata()
    for rows in dataset.with_format("arrow").iter(_BATCH_ROWS):
        columns = [rows[name].cast(schema.field(name).type) for name in schema.names]
        table = pa.table(columns, schema=schema)
        yield from table.combine_chunks().to_batches()


def _canonical_dataset(dataset: "Dataset", content_hash: str) -> "Dataset":
    """The same rows without history: what `save_to_disk` writes depends on the content alone."""
    from datasets import Dataset, DatasetInfo

    schema = dataset.features.arrow_schema.remove_metadata()
    table = mmap_tables.collect_table(schema, _canonical_batches(dataset))
    info = DatasetInfo(features=dataset.features)
    return Dataset(table, info=info, fingerprint=content_hash[:16])
