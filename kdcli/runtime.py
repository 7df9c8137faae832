"""Run an exported classifier without PyTorch.

Needs numpy, tokenizers and onnxruntime (or openvino). It imports hardly anything of kd, so that
`pip install --no-deps kdcli` and the exported folder's `requirements.txt` are enough:

    from kdcli.runtime import Classifier

    classifier = Classifier("exported")
    classifier.predict(["My card is lost."])[0].label
"""

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdcli.errors import DataError, ModelError
from kdcli.inference_sessions import OPENVINO_SUFFIX, load_session

if TYPE_CHECKING:
    import numpy as np

ONNX_FOLDER = "onnx"
EXPORT_FILE = "export.json"
EXPORT_FILE_SUFFIXES = (".onnx", OPENVINO_SUFFIX)
FLOAT32_FILE = "model.onnx"
QUANTIZED_FILE = "model_quantized.onnx"
# Entries of an ONNX file's metadata that `kd export` writes.
PRECISION_KEY, PARAMETERS_KEY, EQUAL_LENGTHS_KEY = (
    "kd.precision",
    "kd.parameters",
    "kd.equal_lengths",
)
# Windows share a quarter of their tokens with the one before, as in training.
_WINDOW_OVERLAP_DIVISOR = 4
_MAX_BATCH_TEXTS = 32
_CHUNK_TEXTS = 4_096
_MAX_BATCH_TOKENS = 4_096
_NO_LENGTH_LIMIT = 1_000_000
_INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
_TRUNCATIONS = ("head", "tail", "both", "windows")
ScoreFunction = Literal["softmax", "sigmoid", "none"]
_SCORE_FUNCTIONS: Mapping[str, ScoreFunction] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "none",
}
_CGROUP_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")

Text = str | tuple[str, str]
Truncation = Literal["head", "tail", "both", "windows"]


@dataclass(frozen=True)
class Prediction:
    """The answer for one text.

    Attributes:
        label: The predicted label; the out-of-scope label for a text that is refused. None for a
            multi-label model (see `labels`) and for a regression.
        score: The calibrated probability of `label`, from 0 to 1; of a multi-label model, the
            highest one; the score of a regression.
        labels: All labels of the text, by a multi-label model.
        refused: Whether the text is below the out-of-scope threshold.
        top: The most probable labels with their calibrated probabilities, best first.
        deferred: Whether the teacher of a cascade gave the answer.
    """

    label: str | None
    score: float
    labels: tuple[str, ...] = ()
    refused: bool = False
    top: tuple[tuple[str, float], ...] = ()
    deferred: bool = False


@dataclass(frozen=True)
class _Settings:
    """The content of `kd.json`: how to read a model's outputs, and how texts are truncated."""

    temperature: float = 1.0
    operating_point: "_OperatingPoint | None" = None
    thresholds: Mapping[str, float] | None = None
    max_length: int | None = None
    truncation: Truncation | None = None


@dataclass(frozen=True)
class _OperatingPoint:
    """Texts whose in-scope score is below the threshold get the out-of-scope label."""

    label_id: int
    score: str
    threshold: float


@dataclass(frozen=True)
class _Row:
    """Token ids of a text, or of one of its windows."""

    text_index: int
    ids: Sequence[int]
    type_ids: Sequence[int]


class TextClassifier(ABC):
    """A text classifier that decides as `kd evaluate` does: the interface of every runtime.

    Args:
        folder: The model's folder, with `kd.json` if kd calibrated the model.
        labels: Names of the outputs, in order.
        task: `single_label_classification`, `multi_label_classification` or `regression`.
        max_length: Tokens to keep of a text. Default: as in training.
        truncation: Tokens to keep of a longer text. Default: as in training.

    Attributes:
        folder: The model's folder.
        labels: Names of the outputs, in order.
        task: `single_label_classification`, `multi_label_classification` or `regression`.
        max_length: Tokens to keep of a text, if that is stated.
        truncation: Tokens to keep of a longer text, if that is stated.
        is_thread_safe: Whether several threads may predict at once.
        reads_one_text_at_a_time: Whether a batch brings nothing, since each text is read alone.

    Raises:
        ModelError: A file is missing or invalid.
    """

    is_thread_safe = False
    reads_one_text_at_a_time = False

    def __init__(
        self,
        folder: str | Path,
        labels: Sequence[str],
        task: str,
        *,
        max_length: int | None = None,
        truncation: Truncation | None = None,
    ) -> None:
        self.folder, self.labels, self.task = Path(folder), tuple(labels), task
        settings = self._read_settings()
        self._temperature = settings.temperature
        self._operating_point, self._thresholds = settings.operating_point, settings.thresholds
        self.max_length = max_length or settings.max_length
        self.truncation = truncation or settings.truncation

    @property
    def can_refuse(self) -> bool:
        """Whether the model has an out-of-scope threshold."""
        return self._operating_point is not None

    @property
    def temperature(self) -> float:
        """What the logits are divided by before they become probabilities."""
        return self._temperature

    @property
    def num_bytes(self) -> int | None:
        """Size of the weights on disk, if the runtime knows it."""
        return None

    @property
    def num_parameters(self) -> int | None:
        """Number of parameters, if the runtime knows it."""
        return None

    def predict(
        self, texts: Sequence[Text], top_k: int = 1, *, batch_size: int | None = None
    ) -> list[Prediction]:
        """Label texts, or pairs of texts, as `kd evaluate` does.

        Args:
            texts: Texts, or pairs of texts.
            top_k: Number of labels in `Prediction.top`.
            batch_size: Rows in a batch. Default: as suits the model.

        Raises:
            DataError: A text is no text, or has no tokens.
        """
        return self.answer(texts, top_k, batch_size=batch_size)[1]

    def answer(
        self, texts: Sequence[Text], top_k: int = 1, *, batch_size: int | None = None
    ) -> "tuple[np.ndarray, list[Prediction]]":
        """Label texts as `predict` does, and return the logits too, (texts, labels)."""
        logits = self.predict_logits(texts, batch_size=batch_size)
        return logits, self.interpret(logits, top_k)

    def predict_logits(
        self,
        texts: Sequence[Text],
        *,
        batch_size: int | None = None,
        advance: Callable[[int, int], None] = lambda done, total: None,
    ) -> "np.ndarray":
        """Compute the raw outputs, float32, (texts, labels); of windows, their mean.

        Args:
            texts: Texts, or pairs of texts.
            batch_size: Rows in a batch. Default: as suits the model.
            advance: Called after each batch with the texts done and the number of texts.

        Raises:
            DataError: A text is no text, or has no tokens.
        """
        import numpy as np

        _check_texts(texts)
        logits = np.zeros((len(texts), len(self.labels)), dtype=np.float32)
        for start in range(0, len(texts), _CHUNK_TEXTS):
            chunk = texts[start : start + _CHUNK_TEXTS]

            def advance_all(
                done: int, rows: int, start: int = start, size: int = len(chunk)
            ) -> None:
                advance(start + size * done // rows, len(texts))

            logits[start : start + len(chunk)] = self._compute_logits(
                chunk, start, batch_size, advance_all
            )
        return logits

    @abstractmethod
    def _compute_logits(
        self,
        texts: Sequence[Text],
        first_index: int,
        batch_size: int | None,
        advance: Callable[[int, int], None],
    ) -> "np.ndarray":
        """Compute the raw outputs of some thousand texts, (texts, labels).

        Args:
            texts: All texts, or all pairs of texts.
            first_index: The first text's index, for messages.
            batch_size: Rows in a batch. None: as suits the model.
            advance: Called after each batch with the rows done and the number of rows.
        """

    def interpret(self, logits: "np.ndarray", top_k: int = 1) -> list[Prediction]:
        """Turn raw outputs, (texts, labels), into predictions.

        Args:
            logits: Finite values.
            top_k: Number of labels in `Prediction.top`.

        Raises:
            ModelError: A logit is NaN or infinite.
        """
        import numpy as np

        logits = logits.astype(np.float64)
        if not np.isfinite(logits).all():
            raise ModelError(f"{self.folder}: a logit is NaN or infinite; the model is damaged.")
        if self.task == "regression":
            return [Prediction(None, score) for score in logits[:, 0].tolist()]
        probabilities = self.compute_scores(logits)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
        top_scores = np.take_along_axis(probabilities, order, axis=1).tolist()
        top = [
            tuple((self.labels[i], score) for i, score in zip(row, scores, strict=True))
            for row, scores in zip(order.tolist(), top_scores, strict=True)
        ]
        if self.task == "multi_label_classification":
            return self._interpret_multi_label(logits, probabilities, top)
        indices, refused = self._decide(logits)
        scores = np.take_along_axis(probabilities, indices[:, None], axis=1)[:, 0]
        rows = zip(indices.tolist(), scores.tolist(), refused.tolist(), top, strict=True)
        return [
            Prediction(self.labels[index], score, (), is_refused, best)
            for index, score, is_refused, best in rows
        ]

    def compute_scores(
        self, logits: "np.ndarray", function: ScoreFunction | None = None
    ) -> "np.ndarray":
        """Turn raw outputs, (texts, labels), into scores of the same shape, float64.

        Args:
            logits: The raw outputs.
            function: `softmax` and `sigmoid` apply the temperature first; `none` returns the raw
                outputs. Default: the task's probabilities; of a regression, the raw outputs.
        """
        import numpy as np

        if function is None:
            function = _SCORE_FUNCTIONS.get(self.task, "softmax")
        logits = logits.astype(np.float64)
        if function == "none":
            return logits
        return (_softmax if function == "softmax" else _sigmoid)(logits / self._temperature)

    def _interpret_multi_label(
        self,
        logits: "np.ndarray",
        probabilities: "np.ndarray",
        top: Sequence[tuple[tuple[str, float], ...]],
    ) -> list[Prediction]:
        import numpy as np

        present = logits > 0
        if self._thresholds:
            # They were chosen on probabilities without the temperature.
            limits = [self._thresholds.get(label, 0.5) for label in self.labels]
            present = _sigmoid(logits) >= np.array(limits)
        highest = probabilities.max(axis=1).tolist()
        return [
            Prediction(None, score, tuple(self.labels[i] for i in np.flatnonzero(row)), top=best)
            for score, row, best in zip(highest, present, top, strict=True)
        ]

    def _decide(self, logits: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
        """Return the index of each text's label, and whether the text is refused."""
        import numpy as np

        point = self._operating_point
        if point is None:
            return logits.argmax(axis=1), np.zeros(len(logits), dtype=bool)
        refused = _IN_SCOPE_SCORES[point.score](logits, point.label_id) < point.threshold
        in_scope = logits.copy()
        in_scope[:, point.label_id] = -np.inf
        return np.where(refused, point.label_id, in_scope.argmax(axis=1)), refused

    def _read_settings(self) -> _Settings:
        """Read `kd.json`, which models from elsewhere lack."""
        if not (self.folder / "kd.json").is_file():
            return _Settings()
        content = _read_json(self.folder, "kd.json")
        try:
            return self._parse_settings(content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{self.folder / 'kd.json'} is damaged: temperature, thresholds or truncation are "
                "missing or invalid.",
                "Export the model again, or delete the file to go without them.",
            ) from error

    def _parse_settings(self, content: Mapping[str, Any]) -> _Settings:
        temperature = float(content["temperature"])
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(temperature)
        operating_point = None
        if (point := content.get("operating_point")) is not None:
            label_id, threshold = self.labels.index(point["label"]), float(point["threshold"])
            if point["score"] not in _IN_SCOPE_SCORES or not math.isfinite(threshold):
                raise ValueError(point)
            operating_point = _OperatingPoint(label_id, point["score"], threshold)
        thresholds = {k: float(v) for k, v in (content.get("thresholds") or {}).items()}
        max_length, truncation = content.get("max_length"), content.get("truncate")
        if not (max_length is None or (type(max_length) is int and max_length > 0)):
            raise ValueError(max_length)
        if truncation not in (None, *_TRUNCATIONS):
            raise ValueError(truncation)
        return _Settings(temperature, operating_point, thresholds, max_length, truncation)


class Classifier(TextClassifier):
    """An exported classifier in onnxruntime or OpenVINO.

    Args:
        folder: The folder that `kd export` wrote, or a run's `student`.
        file: The file in its folder `onnx`. Default: the one that was exported last.
        num_threads: Threads that share the work on one text. Default: the CPUs that this process
            may use, by its affinity and its container's limit.
        max_length: Tokens to keep of a text. Default: as in training.
        truncation: Tokens to keep of a longer text. Default: as in training.

    Attributes:
        path: The file.
        metadata: The file's metadata.

    Raises:
        ModelError: A file is missing or invalid.
        UsageError: onnxruntime or OpenVINO is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        file: str | None = None,
        num_threads: int | None = None,
        max_length: int | None = None,
        truncation: Truncation | None = None,
    ) -> None:
        config = _read_json(Path(folder), "config.json")
        labels, task = _read_labels(Path(folder) / "config.json", config)
        super().__init__(folder, labels, task, max_length=max_length, truncation=truncation)
        self._load_tokenizer(config)
        self.path = self._find_exported_file(file)
        self._load_session(num_threads or available_cpus())

    @property
    def num_bytes(self) -> int:
        """The size of the exported file; OpenVINO's weights lie in a second one."""
        weights = self.path.with_suffix(".bin")
        files = (self.path, weights) if self.path.suffix == OPENVINO_SUFFIX else (self.path,)
        return sum(file.stat().st_size for file in files)

    @property
    def num_parameters(self) -> int | None:
        """Number of parameters, if the file's metadata state it."""
        stated = self.metadata.get(PARAMETERS_KEY, "")
        return int(stated) if stated.isdecimal() else None

    def _compute_logits(
        self,
        texts: Sequence[Text],
        first_index: int,
        batch_size: int | None,
        advance: Callable[[int, int], None],
    ) -> "np.ndarray":
        import numpy as np

        rows = [row for i, text in enumerate(texts) for row in self._encode(i, text, first_index)]
        logits = np.zeros((len(texts), len(self.labels)), dtype=np.float32)
        counts, done = np.zeros((len(texts), 1), dtype=np.float32), 0
        for batch in self._split_into_batches(rows, batch_size):
            for row, output in zip(batch, self._run(batch), strict=True):
                logits[row.text_index] += output
                counts[row.text_index] += 1
            done += len(batch)
            advance(done, len(rows))
        return logits / counts

    def _encode(self, text_index: int, text: Text, first_index: int) -> list[_Row]:
        """Tokenize a text: one row, or one for each of its windows."""
        parts = (text,) if isinstance(text, str) else text
        encoding = self._tokenizer.encode(*parts)
        ids, type_ids = encoding.ids, encoding.type_ids
        if not ids:
            raise no_tokens_error(first_index + text_index, text)
        if self._truncation == "both" and len(ids) > self._max_length:
            # Cutting the middle keeps the special tokens at both ends.
            tail = self._max_length // 2
            head = self._max_length - tail
            ids, type_ids = ids[:head] + ids[-tail:], type_ids[:head] + type_ids[-tail:]
        overflow = encoding.overflowing if self._truncation == "windows" else ()
        windows = ((window.ids, window.type_ids) for window in overflow)
        return [_Row(text_index, *row) for row in ((ids, type_ids), *windows)]

    def _split_into_batches(
        self, rows: Sequence[_Row], batch_size: int | None
    ) -> Iterator[Sequence[_Row]]:
        """Yield rows in batches of similar length, the longest first."""
        if batch_size is None:
            batch_size = 1 if self.reads_one_text_at_a_time else _MAX_BATCH_TEXTS
        ordered, start = sorted(rows, key=lambda row: -len(row.ids)), 0
        while start < len(ordered):
            longest = len(ordered[start].ids)
            end = start + min(batch_size, max(1, _MAX_BATCH_TOKENS // longest))
            batch = ordered[start:end]
            if self._equal_lengths:
                batch = [row for row in batch if len(row.ids) == longest]
            yield batch
            start += len(batch)

    def _run(self, batch: Sequence[_Row]) -> "np.ndarray":
        """Compute the logits of a batch, (rows, labels)."""
        import numpy as np

        width = max(len(row.ids) for row in batch)
        padded = [self._pad(row, width) for row in batch]
        arrays = dict(
            zip(_INPUT_NAMES, np.array(padded, dtype=np.int64).swapaxes(0, 1), strict=True)
        )
        inputs = {name: arrays[name] for name in self._input_names}
        return self._session.run(inputs)

    def _pad(self, row: _Row, width: int) -> list[Sequence[int]]:
        """Pad token ids, attention mask and type ids of a row to a width."""
        length = len(row.ids)
        columns = (row.ids, [1] * length, row.type_ids)
        gap = width - length
        if not gap:
            return [*columns]
        fillings = ([fill] * gap for fill in (self._pad_token_id, 0, 0))
        if self._pads_left:
            return [[*filling, *column] for filling, column in zip(fillings, columns, strict=True)]
        return [[*column, *filling] for filling, column in zip(fillings, columns, strict=True)]

    def _load_tokenizer(self, config: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        tokenizer_config = _read_json(self.folder, "tokenizer_config.json")
        file = _require_file(self.folder, "tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises nothing more specific
            raise ModelError(f"{file} can't be read: {_first_line(error)}") from error
        saved = self._tokenizer.truncation or {}
        limits = (
            self.max_length,
            tokenizer_config.get("model_max_length"),
            saved.get("max_length"),
        )
        self._max_length = int(min([x for x in limits if x is not None], default=_NO_LENGTH_LIMIT))
        side = tokenizer_config.get("truncation_side", "right")
        self._truncation = self.truncation or ("tail" if side == "left" else "head")
        self._pad_token_id = int(config.get("pad_token_id") or 0)
        self._pads_left = tokenizer_config.get("padding_side") == "left"
        self._tokenizer.no_padding()
        if self._truncation == "both" or self._max_length >= _NO_LENGTH_LIMIT:
            self._tokenizer.no_truncation()
            return
        overlap = self._max_length // _WINDOW_OVERLAP_DIVISOR
        self._tokenizer.enable_truncation(
            self._max_length,
            stride=overlap if self._truncation == "windows" else 0,
            direction={"head": "right", "tail": "left"}.get(self._truncation, side),
        )

    def _load_session(self, num_threads: int) -> None:
        self._session = load_session(self.path, num_threads)
        self._input_names, self.metadata = self._session.input_names, self._session.metadata
        if {*self._input_names} - {*_INPUT_NAMES} or self._session.num_labels != len(self.labels):
            raise ModelError(
                f"{self.path} takes {', '.join(self._input_names)} and gives logits of "
                f"{self._session.num_labels or 'no'} labels, not of {len(self.labels)} labels for "
                "token ids.",
                "Export the model with kd export.",
            )
        # Activations in 8 bits get one scale for a batch: alone, a text's answer is its own.
        # OpenVINO's scales are fixed.
        is_openvino = self.path.suffix == OPENVINO_SUFFIX
        is_int8 = self.metadata.get(PRECISION_KEY) == "int8"
        self.reads_one_text_at_a_time = is_int8 and not is_openvino
        # A session of OpenVINO runs one batch at a time, in threads of its own.
        self.is_thread_safe = not is_openvino
        self._equal_lengths = self.metadata.get(EQUAL_LENGTHS_KEY) == "true"

    def _find_exported_file(self, file: str | None) -> Path:
        if file is None and (self.folder / ONNX_FOLDER / EXPORT_FILE).is_file():
            file = Path(
                str(_read_json(self.folder, f"{ONNX_FOLDER}/{EXPORT_FILE}").get("file"))
            ).name
        if file is None:
            quantized = self.folder / ONNX_FOLDER / QUANTIZED_FILE
            file = QUANTIZED_FILE if quantized.is_file() else FLOAT32_FILE
        return _require_file(self.folder, f"{ONNX_FOLDER}/{file}")


def read_labels_and_task(folder: Path) -> tuple[dict[str, Any], tuple[str, ...], str]:
    """Read a model's configuration, the names of its labels, and its task.

    Raises:
        ModelError: The configuration is missing or damaged.
    """
    config = _read_json(folder, "config.json")
    return config, *_parse_labels_and_task(folder / "config.json", config)


def _read_labels(file: Path, config: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return the names of the labels, and the task, from a model's configuration."""
    architectures = config.get("architectures") or ()
    if not any(str(name).endswith("ForSequenceClassification") for name in architectures):
        raise ModelError(f"{file} is no classifier's: its architecture is {architectures}.")
    return _parse_labels_and_task(file, config)


def _parse_labels_and_task(file: Path, config: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    # transformers leaves out these names.
    stated = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    try:
        names = {int(index): str(name) for index, name in stated.items()}
    except (AttributeError, TypeError, ValueError):
        names = {}
    if not names or sorted(names) != [*range(len(names))]:
        raise ModelError(f"{file}: id2label doesn't number the labels from 0.")
    default_task = "regression" if len(names) == 1 else "single_label_classification"
    labels = tuple(names[index] for index in sorted(names))
    return labels, config.get("problem_type") or default_task


def _require_file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{folder} has no {name}.", "Export a model there: kd export.")
    return path


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = _require_file(folder, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no JSON object.")
    return content


def _check_texts(texts: Sequence[Text]) -> None:
    """Check that each text is a string, or each a pair of strings.

    Raises:
        DataError: It isn't; the message has the index.
    """
    if isinstance(texts, str):
        raise DataError("predict takes a list of texts, and was given one text.")
    for index, text in enumerate(texts):
        is_pair = isinstance(text, tuple | list) and len(text) == 2
        if not all(isinstance(part, str) for part in (text if is_pair else [text])):
            raise DataError(f"Text {index} is neither a text nor a pair of texts: {text!r:.80}.")
        if is_pair == isinstance(texts[0], str):
            raise DataError("Some texts are pairs and others are not.", "Label them separately.")


def no_tokens_error(index: int, text: Text) -> DataError:
    """Return the error for a text that the tokenizer makes nothing of."""
    return DataError(f"Text {index} has no tokens: {text!r:.80}.", "Leave it out.")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def available_cpus() -> int:
    """Count the CPUs that this process may use, by its affinity and its container's limit."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_CPU_LIMIT.read_text(encoding="ascii").split()
        limit = count if quota == "max" else -(-int(quota) // int(period))
    except (OSError, ValueError):
        limit = count
    return max(1, min(count, limit))


def _softmax(values: "np.ndarray") -> "np.ndarray":
    import numpy as np

    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def _sigmoid(values: "np.ndarray") -> "np.ndarray":
    import numpy as np

    # exp of a large number overflows: take it of the negative absolute value.
    small = np.exp(-np.abs(values))
    probabilities: np.ndarray = np.where(values >= 0, 1 / (1 + small), small / (1 + small))
    return probabilities


def _drop(values: "np.ndarray", index: int) -> "np.ndarray":
    import numpy as np

    return np.delete(values, index, axis=1)


def _max_in_scope_probability(logits: "np.ndarray", out_of_scope_id: int) -> "np.ndarray":
    highest: np.ndarray = _drop(_softmax(logits), out_of_scope_id).max(axis=1)
    return highest


def _logit_margin(logits: "np.ndarray", out_of_scope_id: int) -> "np.ndarray":
    margin: np.ndarray = _drop(logits, out_of_scope_id).max(axis=1) - logits[:, out_of_scope_id]
    return margin


def _negative_energy(logits: "np.ndarray", out_of_scope_id: int) -> "np.ndarray":
    import numpy as np

    in_scope = _drop(logits, out_of_scope_id)
    highest = in_scope.max(axis=1)
    energy: np.ndarray = highest + np.log(np.exp(in_scope - highest[:, None]).sum(axis=1))
    return energy


def _negative_entropy(logits: "np.ndarray", out_of_scope_id: int) -> "np.ndarray":
    import numpy as np

    probabilities = _softmax(_drop(logits, out_of_scope_id))
    # 0 · log 0 is 0.
    logs = np.log(np.where(probabilities > 0, probabilities, 1))
    entropy: np.ndarray = (probabilities * logs).sum(axis=1)
    return entropy


# The scores of `kdcli.evaluation.metrics.out_of_scope`, (texts,), without scipy.
_IN_SCOPE_SCORES: Mapping[str, Callable[["np.ndarray", int], "np.ndarray"]] = {
    "probability": _max_in_scope_probability,
    "margin": _logit_margin,
    "energy": _negative_energy,
    "entropy": _negative_entropy,
}
