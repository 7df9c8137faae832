"""Run an exported classifier without PyTorch.

Needs numpy, tokenizers and onnxruntime. It imports nothing of kd but its errors, so that
`pip install --no-deps kdcli` and the exported folder's `requirements.txt` are enough:

    from kdcli.runtime import Classifier

    classifier = Classifier("exported")
    classifier.predict(["My card is lost."])[0].label
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdcli.errors import DataError, ModelError

if TYPE_CHECKING:
    import numpy as np

ONNX_FOLDER = "onnx"
EXPORT_FILE = "export.json"
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
    """

    label: str | None
    score: float
    labels: tuple[str, ...] = ()
    refused: bool = False
    top: tuple[tuple[str, float], ...] = ()


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


class Classifier:
    """An exported classifier in onnxruntime.

    It decides as `kd evaluate` does: with the temperature and thresholds of `kd.json`, and texts
    truncated as in training.

    Args:
        folder: The folder that `kd export` wrote, or a run's `student`.
        file: The ONNX file in its folder `onnx`. Default: the one that was exported last.
        num_threads: Threads that share the work on one text. Default: the CPUs that this process
            may use, by its affinity and its container's limit.
        max_length: Tokens to keep of a text. Default: as in training.
        truncation: Tokens to keep of a longer text. Default: as in training.

    Attributes:
        labels: Names of the outputs, in order.
        task: `single_label_classification`, `multi_label_classification` or `regression`.
        path: The ONNX file.
        metadata: The file's metadata.

    Raises:
        ModelError: A file is missing or invalid.
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
        self.folder = Path(folder)
        config = self._read_json("config.json")
        self._read_labels(config)
        settings = self._read_settings()
        self._temperature = settings.temperature
        self._operating_point, self._thresholds = settings.operating_point, settings.thresholds
        self._load_tokenizer(
            config, max_length or settings.max_length, truncation or settings.truncation
        )
        self.path = self._find_onnx_file(file)
        self._load_session(num_threads or available_cpus())

    def predict(self, texts: Sequence[Text], top_k: int = 1) -> list[Prediction]:
        """Label texts, or pairs of texts, as `kd evaluate` does.

        Args:
            texts: Texts, or pairs of texts.
            top_k: Number of labels in `Prediction.top`.

        Raises:
            DataError: A text is no text, or has no tokens.
        """
        return [self._interpret(row, top_k) for row in self.predict_logits(texts)]

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
            batch_size: Rows in a batch. Default: 1 where activations are quantized with a scale
                for each batch, so that a text's answer is its own; otherwise up to 32.
            advance: Called after each batch with the texts done and the number of texts.

        Raises:
            DataError: A text is no text, or has no tokens.
        """
        import numpy as np

        if isinstance(texts, str):
            raise DataError("predict takes a list of texts, and was given one text.")
        logits = np.zeros((len(texts), len(self.labels)), dtype=np.float32)
        for start in range(0, len(texts), _CHUNK_TEXTS):
            chunk = texts[start : start + _CHUNK_TEXTS]
            rows = [row for i, text in enumerate(chunk, start) for row in self._encode(i, text)]
            counts, done = np.zeros((len(chunk), 1), dtype=np.float32), 0
            for batch in self._split_into_batches(rows, batch_size):
                for row, output in zip(batch, self._run(batch), strict=True):
                    logits[row.text_index] += output
                    counts[row.text_index - start] += 1
                done += len(batch)
                advance(start + len(chunk) * done // len(rows), len(texts))
            logits[start : start + len(chunk)] /= counts
        return logits

    def _interpret(self, logits: "np.ndarray", top_k: int) -> Prediction:
        import numpy as np

        if self.task == "regression":
            return Prediction(None, float(logits[0]))
        logits = logits.astype(np.float64)
        is_multi_label = self.task == "multi_label_classification"
        to_probabilities = _sigmoid if is_multi_label else _softmax
        probabilities = to_probabilities(logits / self._temperature)
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        top = tuple((self.labels[i], float(probabilities[i])) for i in best)
        if is_multi_label:
            present = logits > 0
            if self._thresholds:
                # They were chosen on probabilities without the temperature.
                limits = [self._thresholds.get(label, 0.5) for label in self.labels]
                present = _sigmoid(logits) >= np.array(limits)
            labels = tuple(self.labels[i] for i in np.flatnonzero(present))
            return Prediction(None, float(probabilities.max()), labels, top=top)
        index, refused = self._decide(logits)
        return Prediction(self.labels[index], float(probabilities[index]), (), refused, top)

    def _decide(self, logits: "np.ndarray") -> tuple[int, bool]:
        """Return the index of the label, and whether the text is refused."""
        import numpy as np

        point = self._operating_point
        if point is None:
            return int(logits.argmax()), False
        if _IN_SCOPE_SCORES[point.score](logits, point.label_id) < point.threshold:
            return point.label_id, True
        in_scope = logits.copy()
        in_scope[point.label_id] = -np.inf
        return int(in_scope.argmax()), False

    def _encode(self, text_index: int, text: Text) -> list[_Row]:
        """Tokenize a text: one row, or one for each of its windows."""
        is_pair = isinstance(text, tuple | list) and len(text) == 2
        if not all(isinstance(part, str) for part in (text if is_pair else [text])):
            raise DataError(
                f"Text {text_index} is neither a text nor a pair of texts: {text!r:.80}."
            )
        encoding = self._tokenizer.encode(*text) if is_pair else self._tokenizer.encode(text)
        ids, type_ids = encoding.ids, encoding.type_ids
        if not ids:
            raise DataError(f"Text {text_index} has no tokens: {text!r:.80}.", "Leave it out.")
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
            batch_size = 1 if self._one_text_per_batch else _MAX_BATCH_TEXTS
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
        logits: np.ndarray = self._session.run(["logits"], inputs)[0]
        return logits

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

    def _read_labels(self, config: Mapping[str, Any]) -> None:
        file = self.folder / "config.json"
        architectures = config.get("architectures") or ()
        if not any(str(name).endswith("ForSequenceClassification") for name in architectures):
            raise ModelError(f"{file} is no classifier's: its architecture is {architectures}.")
        # transformers leaves out these names.
        stated = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        try:
            names = {int(index): str(name) for index, name in stated.items()}
        except (AttributeError, TypeError, ValueError):
            names = {}
        if not names or sorted(names) != [*range(len(names))]:
            raise ModelError(f"{file}: id2label doesn't number the labels from 0.")
        self.labels = tuple(names[index] for index in sorted(names))
        default_task = "regression" if len(names) == 1 else "single_label_classification"
        self.task: str = config.get("problem_type") or default_task

    def _read_settings(self) -> _Settings:
        """Read `kd.json`, which models from elsewhere lack."""
        if not (self.folder / "kd.json").is_file():
            return _Settings()
        content = self._read_json("kd.json")
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

    def _load_tokenizer(
        self, config: Mapping[str, Any], max_length: int | None, truncation: Truncation | None
    ) -> None:
        from tokenizers import Tokenizer

        tokenizer_config = self._read_json("tokenizer_config.json")
        file = self._require_file("tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises nothing more specific
            raise ModelError(f"{file} can't be read: {_first_line(error)}") from error
        saved = self._tokenizer.truncation or {}
        limits = (
            max_length,
            tokenizer_config.get("model_max_length"),
            saved.get("max_length"),
        )
        self._max_length = int(min([x for x in limits if x is not None], default=_NO_LENGTH_LIMIT))
        side = tokenizer_config.get("truncation_side", "right")
        self._truncation = truncation or ("tail" if side == "left" else "head")
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
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        # Idle threads that spin take the processors from whatever else runs in the process.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has an exception type for each of its causes
            raise ModelError(
                f"{self.path} can't be loaded: {_first_line(error)}",
                "Export the model again: kd export MODEL.",
            ) from error
        self._input_names = [each.name for each in self._session.get_inputs()]
        widths = {each.name: each.shape[-1] for each in self._session.get_outputs()}
        if {*self._input_names} - {*_INPUT_NAMES} or widths.get("logits") != len(self.labels):
            raise ModelError(
                f"{self.path} takes {', '.join(self._input_names)} and gives {widths}, not logits "
                f"of {len(self.labels)} labels for token ids.",
                "Export the model with kd export.",
            )
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        # Activations in 8 bits get one scale for a batch: alone, a text's answer is its own.
        self._one_text_per_batch = self.metadata.get(PRECISION_KEY) == "int8"
        self._equal_lengths = self.metadata.get(EQUAL_LENGTHS_KEY) == "true"

    def _find_onnx_file(self, file: str | None) -> Path:
        if file is None and (self.folder / ONNX_FOLDER / EXPORT_FILE).is_file():
            file = Path(str(self._read_json(f"{ONNX_FOLDER}/{EXPORT_FILE}").get("file"))).name
        if file is None:
            quantized = self.folder / ONNX_FOLDER / QUANTIZED_FILE
            file = QUANTIZED_FILE if quantized.is_file() else FLOAT32_FILE
        return self._require_file(f"{ONNX_FOLDER}/{file}")

    def _require_file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise ModelError(f"{self.folder} has no {name}.", "Export a model there: kd export.")
        return path

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self._require_file(name)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{path} is no JSON: {error}.") from error
        if not isinstance(content, dict):
            raise ModelError(f"{path} is no JSON object.")
        return content


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

    exponentials = np.exp(values - values.max())
    probabilities: np.ndarray = exponentials / exponentials.sum()
    return probabilities


def _sigmoid(values: "np.ndarray") -> "np.ndarray":
    import numpy as np

    probabilities: np.ndarray = 1 / (1 + np.exp(-values))
    return probabilities


def _log_sum_exp(values: "np.ndarray") -> float:
    import numpy as np

    return float(values.max() + np.log(np.exp(values - values.max()).sum()))


def _drop(values: "np.ndarray", index: int) -> "np.ndarray":
    import numpy as np

    return np.delete(values, index)


def _max_in_scope_probability(logits: "np.ndarray", out_of_scope_id: int) -> float:
    return float(_drop(_softmax(logits), out_of_scope_id).max())


def _logit_margin(logits: "np.ndarray", out_of_scope_id: int) -> float:
    return float(_drop(logits, out_of_scope_id).max() - logits[out_of_scope_id])


def _negative_energy(logits: "np.ndarray", out_of_scope_id: int) -> float:
    return _log_sum_exp(_drop(logits, out_of_scope_id))


def _negative_entropy(logits: "np.ndarray", out_of_scope_id: int) -> float:
    import numpy as np

    probabilities = _softmax(_drop(logits, out_of_scope_id))
    positive = probabilities[probabilities > 0]
    return float((positive * np.log(positive)).sum())


# The scores of `kdcli.evaluation.metrics.out_of_scope`, for one text and without scipy.
_IN_SCOPE_SCORES: Mapping[str, Callable[["np.ndarray", int], float]] = {
    "probability": _max_in_scope_probability,
    "margin": _logit_margin,
    "energy": _negative_energy,
    "entropy": _negative_entropy,
}
