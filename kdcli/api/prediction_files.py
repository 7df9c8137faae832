"""Label data sets: the function behind `kd predict`."""

import hashlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from kdcli import __version__, path_resolution
from kdcli.api.cascade import CascadeClassifier
from kdcli.api.prediction import load
from kdcli.api.progress_reporting import ProgressCallback, choose_reporter
from kdcli.api.runs import to_reference
from kdcli.data import schema_inference
from kdcli.data.dataset_loading import find_splits
from kdcli.data.readers.base import LocatedRow
from kdcli.data.readers.row_streams import RowStream, stream_dataset, stream_files
from kdcli.data.row_writers import OUTPUT_SUFFIXES, open_row_writer
from kdcli.errors import DataError, KdError, MissingColumnError, UsageError
from kdcli.pipeline.run_folder import RECIPE_FILE
from kdcli.progress import Reporter
from kdcli.recipe.data import DataConfig
from kdcli.recipe.loading import load_recipe
from kdcli.runtime import Prediction, TextClassifier
from kdcli.safe_files import raise_if_symlink
from kdcli.sanitize import count_noun

OnError = Literal["stop", "skip"]
_SAMPLE_ROWS = 200
_MODEL_SUFFIXES = {".json", ".safetensors", ".onnx", ".xml", ".bin"}
_MAX_REPORTED_ROWS = 20


@dataclass(frozen=True)
class PredictionOptions:
    """How rows are labelled.

    Attributes:
        text: The text column, or the two columns of pairs. Default: guessed.
        top_k: Number of most probable labels to add as columns `top1_label`, …; 0 adds none.
        on_error: What to do with a row that can't be labelled: stop, or report it and go on.
        batch_size: Rows in a batch. Default: as suits the model.
        chunk_rows: Rows that are read, labelled and written together.
        usual_text: The text columns to take if the data has them and `text` is not given.
    """

    text: tuple[str, ...] | None = None
    top_k: int = 0
    on_error: OnError = "stop"
    batch_size: int | None = None
    chunk_rows: int = 4_096
    usual_text: tuple[str, ...] = ()


@dataclass
class PredictionSummary:
    """Outcome of labelling a data set.

    Attributes:
        output: The file that was written.
        rows: Rows that were labelled.
        skipped: Rows that could not be labelled.
        refused: Rows below the out-of-scope threshold.
        deferred: Rows that a cascade's teacher labelled.
        labels: Rows by predicted label; of several labels, rows with each one.
        seconds: Time it took, without earlier parts of a run that was resumed.
    """

    output: str = ""
    rows: int = 0
    skipped: int = 0
    refused: int = 0
    deferred: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def predict(
    model: str | Path | TextClassifier,
    data: Any,
    output: str | Path | None = None,
    *,
    text: str | Sequence[str] | None = None,
    split: str | None = None,
    config: str | None = None,
    top_k: int = 0,
    on_error: OnError = "stop",
    batch_size: int | None = None,
    fresh: bool = False,
    reporter: Reporter | None = None,
    progress: ProgressCallback | None = None,
) -> Iterator[dict[str, Any]] | PredictionSummary:
    """Label the texts of a data set: `kd predict`.

    Args:
        model: See `kdcli.load`; or a loaded classifier.
        data: Hub id, path, data frame, `datasets.Dataset` or `DatasetDict`.
        output: The file to write: .jsonl, .csv, .tsv or .parquet. A call that was stopped goes on
            where it was when it is made again.
        text: Column of the texts, or two columns of pairs. Default: as in the model's run, or
            guessed.
        split: Split of the data. Default: the only one, or `test`.
        config: Configuration of a Hub dataset.
        top_k: Number of most probable labels to add.
        on_error: `skip` leaves out rows that can't be labelled, and reports them.
        batch_size: Rows in a batch. Default: as suits the model.
        fresh: Replace `output` if it exists.
        reporter: Receives progress; by default the logger `kdcli`.
        progress: Called as `progress(stage, done, total, metrics)`, if there is no reporter.

    Returns:
        With `output`, a summary. Otherwise an iterator over the rows, with the columns `label` (or
        `labels`, or `score`), `probability` and `refused`.

    Raises:
        KdError: The model or the data can't be used.
    """
    columns = None if text is None else (text,) if isinstance(text, str) else tuple(text)
    usual = () if isinstance(model, TextClassifier) else find_text_columns(str(model))
    options = PredictionOptions(columns, top_k, on_error, batch_size, usual_text=usual)
    chosen = choose_reporter(reporter, progress)
    stream = open_data(to_reference(data) or data, split, config, chosen)
    path = None if output is None else check_output(Path(output), fresh=fresh)
    classifier = model if isinstance(model, TextClassifier) else load(model)
    if path is not None:
        return predict_to_file(classifier, stream, path, options, chosen)
    chunks = RowLabeler(classifier, stream, options, chosen).iterate_chunks()
    return (row for chunk in chunks for row in chunk)


def open_data(
    reference: str, split: str | None, config: str | None, reporter: Reporter
) -> RowStream:
    """Open a file, a folder or a Hub dataset to read it row by row.

    Raises:
        DataError: The data is missing or unusable, or has several splits and none is named.
        RemoteServiceError: The Hub can't be reached.
    """
    path = path_resolution.expand_local_path(reference)
    if path.is_file() and split is None:
        return stream_files([path])
    notes: list[str] = []
    splits = find_splits(DataConfig(dataset=reference, config=config), notes)
    for note in notes:
        reporter.info(note)
    name = split if split is not None else "test" if "test" in splits else None
    if name is None and len(splits) == 1:
        name = next(iter(splits))
    if name is None or name not in splits:
        wanted = "several splits" if name is None else f"no split {name}"
        raise DataError(
            f"{reference} has {wanted}; there is {', '.join(splits)}.", "Name one: --split NAME."
        )
    source = splits[name]
    if isinstance(source, list):
        return stream_files(source)
    return stream_dataset(f"{reference}, {name}", source)


def find_text_columns(model: str) -> tuple[str, ...]:
    """Return the text columns of the run that a local model belongs to; none without a run."""
    path = path_resolution.expand_local_path(model)
    if not path.exists():
        return ()
    folder = path.resolve().parents[1] if path.is_file() else path.resolve()
    recipes = (folder / RECIPE_FILE, folder.parent / RECIPE_FILE)
    recipe = next((file for file in recipes if file.is_file()), None)
    try:
        return () if recipe is None else load_recipe(str(recipe)).data.text_columns
    except KdError:
        return ()  # the columns are guessed


def check_output(output: Path, *, fresh: bool) -> Path:
    """Check that a file can be written, and return its absolute path.

    Raises:
        UsageError: It exists, its folder doesn't, or its ending is unknown.
    """
    output = path_resolution.expand_local_path(str(output)).absolute()
    if output.suffix.lower() not in OUTPUT_SUFFIXES:
        raise UsageError(
            f"--output {output} has no known ending.", f"Known: {', '.join(OUTPUT_SUFFIXES)}."
        )
    raise_if_symlink(output)
    if output.exists() and (not fresh or output.is_dir()):
        raise UsageError(f"{output} exists.", "Name another --output, or replace it: --fresh.")
    if not output.parent.is_dir():
        raise UsageError(f"There is no folder {output.parent}.", "Create it.")
    return output


def predict_to_file(
    classifier: TextClassifier,
    stream: RowStream,
    output: Path,
    options: PredictionOptions,
    reporter: Reporter,
) -> PredictionSummary:
    """Label a data set into a file.

    Rows are written beside `output` in whole chunks, so that a call that was stopped goes on after
    the last one; the finished file is the same to the byte.

    Args:
        classifier: The model.
        stream: The data set.
        output: The file, see `check_output`.
        options: Columns, and what to do with rows that can't be labelled.
        reporter: Receives progress.

    Raises:
        DataError: A row can't be labelled, or columns can't be used.
        UsageError: Another process is writing the file.
    """
    started = time.monotonic()
    labeler = RowLabeler(classifier, stream, options, reporter)
    total, columns = labeler.check_all_rows()
    signature = _sign_work(classifier, stream, options)
    with open_row_writer(output, columns, signature) as writer:
        if writer.discarded_progress:
            reporter.info(
                f"{output.name} was begun with another model, data or options: starting anew."
            )
        if writer.progress is not None:
            labeler.resume(writer.progress)
            reporter.info(f"Resuming after {count_noun(labeler.rows_read, 'row')}.")
        rows_in_all = f"{count_noun(total, 'row')} of " if total else ""
        reporter.start("predict", f"label {rows_in_all}{stream.name}")
        first, begun = labeler.rows_read, time.monotonic()
        for rows in labeler.iterate_chunks():
            writer.write_chunk(rows, labeler.progress)
            rate = (labeler.rows_read - first) / max(time.monotonic() - begun, 1e-9)
            reporter.advance(
                labeler.rows_read, max(total, labeler.rows_read), {"rows a second": rate}
            )
        writer.finish()
    seconds = time.monotonic() - started
    reporter.finish("predict", "done", seconds)
    return replace(labeler.summary, output=str(output), seconds=seconds)


def _sign_work(classifier: TextClassifier, stream: RowStream, options: PredictionOptions) -> str:
    """Hash what the output depends on: files by name, size and time of change."""
    models, threshold = [classifier], None
    if isinstance(classifier, CascadeClassifier):
        models, threshold = [classifier.student, classifier.teacher], classifier.threshold
    files = [*stream.files, *(file for model in models for file in _model_files(model.folder))]
    stats = [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    settings = [
        (type(model).__name__, model.max_length, model.truncation, str(getattr(model, "path", "")))
        for model in models
    ]
    # What can be read once only can't be resumed.
    nonce = "" if stream.is_repeatable else secrets.token_hex()
    work = (__version__, nonce, stream.name, stats, asdict(options), settings, threshold)
    return hashlib.sha256(repr(work).encode()).hexdigest()


def _model_files(folder: Path) -> list[Path]:
    """List the files of a model, without hidden folders."""
    found = (path for path in sorted(folder.rglob("*")) if path.suffix in _MODEL_SUFFIXES)
    return [path for path in found if path.relative_to(folder).parts[0][0] != "."]


class RowLabeler:
    """Labels the rows of a data set, chunk by chunk.

    Args:
        classifier: The model.
        stream: The data set; its first rows are read.
        options: Columns, and what to do with rows that can't be labelled.
        reporter: Receives a note for each of these.

    Attributes:
        rows_read: Rows that were read.
        summary: What became of them.
        text_columns: The columns of the texts.
        column_names: The added columns by what they hold: `label`, `probability`, `refused`, ….
    """

    def __init__(
        self,
        classifier: TextClassifier,
        stream: RowStream,
        options: PredictionOptions,
        reporter: Reporter,
    ) -> None:
        self.classifier, self.stream, self.options = classifier, stream, options
        self._reporter = reporter
        self.rows_read, self.summary = 0, PredictionSummary()
        self._skips, self._is_muted = options.on_error == "skip", False
        if stream.columns is not None:
            sample: list[dict[str, Any]] = [dict.fromkeys(stream.columns)]
            self.text_columns = stream.columns
        else:
            sample = [dict(row) for _, row in islice(stream.iterate(self._ignore), _SAMPLE_ROWS)]
            if not sample:
                raise DataError(f"{stream.name} is empty: it holds no rows.")
            self.text_columns = self._choose_text_columns(sample)
        self.column_names = self._choose_column_names(sample)

    def check_all_rows(self) -> tuple[int, list[str]]:
        """Read all rows once, before work starts.

        Returns:
            The number of rows, and the columns of the output; 0 if it can't be read twice.

        Raises:
            DataError: A row can't be labelled.
        """
        if not self.stream.is_repeatable:
            return 0, [*(self.stream.columns or ()), *self.column_names.values()]
        columns: dict[str, None] = {}
        count = 0
        rows = self.stream.iterate(self._ignore if self._skips else None)
        for location, row in rows:
            count += 1
            columns.update(dict.fromkeys(row))
            if not self._skips:
                self._get_text(location, row)
        return count, [*columns, *self.column_names.values()]

    @property
    def progress(self) -> dict[str, Any]:
        """The state to resume from."""
        return {"rows_read": self.rows_read, "summary": asdict(self.summary)}

    def resume(self, progress: Mapping[str, Any]) -> None:
        """Go on after the rows of an earlier call."""
        self.summary = PredictionSummary(**progress["summary"])
        self.rows_read = progress["rows_read"]

    def iterate_chunks(self) -> Iterator[list[dict[str, Any]]]:
        """Yield the labelled rows of each chunk after those that were read.

        Raises:
            DataError: A row can't be labelled.
        """
        rows = self.stream.iterate(self._skip if self._skips else None)
        self._is_muted = True  # their faults were counted
        for _ in islice(rows, self.rows_read):
            pass
        self._is_muted = False
        while chunk := list(islice(rows, self.options.chunk_rows)):
            labelled = self._label(chunk)
            self.rows_read += len(chunk)
            self.summary.rows += len(labelled)
            yield labelled

    def _label(self, chunk: Sequence[LocatedRow]) -> list[dict[str, Any]]:
        kept, texts = [], []
        for location, row in chunk:
            try:
                text = self._get_text(location, row)
            except DataError as error:
                if not self._skips:
                    raise
                self._skip(error)
            else:
                kept.append(row)
                texts.append(text)
        predictions = self.classifier.predict(
            texts, max(1, self.options.top_k), batch_size=self.options.batch_size
        )
        return [
            {**row, **self._format(prediction)}
            for row, prediction in zip(kept, predictions, strict=True)
        ]

    def _get_text(self, location: str, row: Mapping[str, Any]) -> Any:
        parts = []
        for column in self.text_columns:
            if column not in row:
                raise DataError(f"{location}: has no {column}.")
            text = row[column]
            if not isinstance(text, str) or not text.strip():
                shown = "empty" if text is None or text == "" else f"{text!r:.40}, not a text"
                raise DataError(
                    f"{location}: {column} is {shown}.", "Skip such rows: --on-error skip."
                )
            parts.append(text)
        return parts[0] if len(parts) == 1 else (parts[0], parts[1])

    def _format(self, prediction: Prediction) -> dict[str, Any]:
        names, task = self.column_names, self.classifier.task
        if task == "regression":
            return {names["score"]: prediction.score}
        cells: dict[str, Any] = {}
        if task == "multi_label_classification":
            cells[names["labels"]] = [*prediction.labels]
            self._count(prediction.labels)
        else:
            cells[names["label"]] = prediction.label
            self._count([str(prediction.label)])
        cells[names["probability"]] = prediction.score
        if "deferred" in names:
            cells[names["deferred"]] = prediction.deferred
            self.summary.deferred += prediction.deferred
        if "refused" in names:
            cells[names["refused"]] = prediction.refused
            self.summary.refused += prediction.refused
        for rank, (label, probability) in enumerate(prediction.top[: self.options.top_k], 1):
            cells[names[f"top{rank}_label"]] = label
            cells[names[f"top{rank}_probability"]] = probability
        return cells

    def _choose_text_columns(self, sample: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        available = [*dict.fromkeys(column for row in sample for column in row)]
        for column in self.options.text or ():
            if column not in available:
                raise MissingColumnError("text", column, self.stream.name, available)
        if self.options.text:
            return self.options.text
        if self.options.usual_text and {*self.options.usual_text} <= {*available}:
            return self.options.usual_text
        if len(available) == 1:
            return (available[0],)
        if (usual := next((c for c in available if c.lower() == "text"), None)) is not None:
            return (usual,)
        try:
            return schema_inference.infer_text_columns(sample, self.stream.name)
        except DataError as error:
            raise DataError(error.message, "Name it: --text COLUMN (a,b for pairs).") from error

    def _choose_column_names(self, sample: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Choose the names of the added columns; those that the input has become `predicted_…`."""
        task = self.classifier.task
        added = ["score"] if task == "regression" else ["label", "probability"]
        if task == "multi_label_classification":
            added[0] = "labels"
        elif self.classifier.can_refuse:
            added.append("refused")
        if isinstance(self.classifier, CascadeClassifier):
            added.append("deferred")
        if task != "regression":
            count = min(self.options.top_k, len(self.classifier.labels))
            ranks = range(1, count + 1)
            added += [f"top{rank}_{part}" for rank in ranks for part in ("label", "probability")]
        existing = {column for row in sample for column in row}
        names = {name: f"predicted_{name}" if name in existing else name for name in added}
        if taken := next((name for name in names.values() if name in existing), None):
            raise DataError(f"{self.stream.name} has a column {taken} already.", "Rename it.")
        return names

    def _count(self, labels: Sequence[str]) -> None:
        counts = self.summary.labels
        counts.update({label: counts.get(label, 0) + 1 for label in labels})

    def _skip(self, error: DataError) -> None:
        if self._is_muted:
            return
        self.summary.skipped += 1
        if self.summary.skipped <= _MAX_REPORTED_ROWS:
            self._reporter.info(f"{error.message} The row is left out.")
        elif self.summary.skipped == _MAX_REPORTED_ROWS + 1:
            self._reporter.info("More rows are left out; the summary counts them.")

    def _ignore(self, error: DataError) -> None:
        """Pass over a row that is reported elsewhere."""
