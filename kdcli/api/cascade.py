"""Cascades: a student that answers where it is sure, and its teacher for the other texts."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from kdcli.errors import ModelError, UsageError
from kdcli.runtime import Prediction, Text, TextClassifier
from kdcli.safe_files import append_text, write_text_atomically

if TYPE_CHECKING:
    import numpy as np

    from kdcli.evaluation.cascade.cascade_report import CascadeReport
    from kdcli.evaluation.cascade.deferral_rule import Metric
    from kdcli.evaluation.compare import ModelComparison

CASCADE_FILE = "cascade.json"
# Texts before the share deferred is compared with validation's.
_MIN_MONITORED_TEXTS = 200
# Of the interval of the share deferred in use.
_MONITORING_Z = 2.576


class CascadeClassifier(TextClassifier):
    """A student that defers the texts it is unsure of to a teacher.

    Args:
        student: The model that reads every text.
        teacher: The model that reads the deferred ones; it has the same labels.
        threshold: Texts that the student labels with a lower probability are deferred. Default:
            that of `cascade.json`, which `kd evaluate --cascade` writes.
        log: A file to which deferred texts are appended, as JSON lines: the next transfer set.

    Attributes:
        texts: Texts that were labelled.
        deferred: Texts among them that were deferred.

    Raises:
        UsageError: There is neither a threshold nor a `cascade.json`.
        ModelError: The models have different labels or tasks, or `cascade.json` is invalid.
    """

    def __init__(
        self,
        student: TextClassifier,
        teacher: TextClassifier,
        threshold: float | None = None,
        *,
        log: Path | None = None,
    ) -> None:
        super().__init__(student.folder, student.labels, student.task)
        self.student, self.teacher, self.log = student, teacher, log
        self.max_length, self.truncation = student.max_length, student.truncation
        if {*student.labels} != {*teacher.labels} or student.task != teacher.task:
            raise ModelError(
                f"{student.folder} and {teacher.folder} have different labels or tasks: they make "
                "no cascade."
            )
        if student.task != "single_label_classification":
            raise ModelError(f"{student.folder}: a cascade needs one label per text.")
        self.threshold, self.expected_share = self._read_rule(threshold)
        self.texts = self.deferred = 0
        self._lock = Lock()
        self.is_thread_safe = student.is_thread_safe and teacher.is_thread_safe
        self.reads_one_text_at_a_time = student.reads_one_text_at_a_time

    def answer(
        self, texts: Sequence[Text], top_k: int = 1, *, batch_size: int | None = None
    ) -> "tuple[np.ndarray, list[Prediction]]":
        """Label texts; `Prediction.deferred` says by whom.

        Returns:
            The logits of whoever answered, (texts, labels), the teacher's scaled so that the
            student's temperature gives the teacher's probabilities; and the predictions.
        """
        logits, predictions = self.student.answer(texts, top_k, batch_size=batch_size)
        unsure = [i for i, each in enumerate(predictions) if each.score < self.threshold]
        if unsure:
            deferred = [texts[i] for i in unsure]
            scores, answers = self.teacher.answer(deferred, top_k, batch_size=batch_size)
            order = [self.teacher.labels.index(label) for label in self.labels]
            logits[unsure] = scores[:, order] * (self.temperature / self.teacher.temperature)
            for index, answer in zip(unsure, answers, strict=True):
                predictions[index] = replace(answer, deferred=True)
            self._log_texts(deferred)
        with self._lock:
            self.texts += len(texts)
            self.deferred += len(unsure)
        return logits, predictions

    @property
    def alarm(self) -> str | None:
        """A sentence if the share deferred is no longer that of validation."""
        if self.expected_share is None or self.texts < _MIN_MONITORED_TEXTS:
            return None
        share, (low, high) = self.deferred / self.texts, self.expected_share
        margin = _MONITORING_Z * (max(share * (1 - share), 1e-9) / self.texts) ** 0.5
        if low <= share + margin and share - margin <= high:
            return None
        return (
            f"{share:.1%} of {self.texts:,} texts were deferred; on validation it was {low:.1%} to "
            f"{high:.1%}. The texts have changed: the promise may not hold."
        )

    def _compute_logits(
        self,
        texts: Sequence[Text],
        first_index: int,
        batch_size: int | None,
        advance: Callable[[int, int], None],
    ) -> "np.ndarray":
        logits = self.answer(texts, batch_size=batch_size)[0]
        advance(len(texts), len(texts))
        return logits

    def _read_rule(self, threshold: float | None) -> tuple[float, tuple[float, float] | None]:
        if threshold is not None:
            return threshold, None
        file = self.folder / CASCADE_FILE
        if not file.is_file():
            raise UsageError(
                f"{self.folder} has no {CASCADE_FILE}.",
                "Choose a threshold: kd evaluate RUN --cascade.",
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            low, high = content["deferred_interval"]
            return float(content["threshold"]), (float(low), float(high))
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{file} is damaged: it has no threshold.", "Write it: kd evaluate RUN --cascade."
            ) from error

    def _log_texts(self, texts: Sequence[Text]) -> None:
        if self.log is not None:
            keys = ("text", "text_pair")
            rows = (
                {"text": text} if isinstance(text, str) else dict(zip(keys, text, strict=True))
                for text in texts
            )
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            append_text(self.log, "".join(lines))


def add_cascades(
    comparison: "ModelComparison", metric: "Metric", max_drop: float, confidence: float
) -> list[str]:
    """Choose a cascade for each student of an evaluation, and save its rule with the student.

    Adds `cascade` to the evaluation.

    Returns:
        Sentences that describe the cascades.

    Raises:
        UsageError: The models or texts don't allow a cascade.
    """
    from kdcli.evaluation.cascade.cascade_report import describe_cascades, evaluate_cascades

    reports = evaluate_cascades(comparison, metric, max_drop, confidence)
    comparison.evaluation["cascade"] = [report.to_json() for report in reports]
    saved = [f"Written: {file}" for file in _save_rules(comparison, reports)]
    return [*describe_cascades(reports), *saved]


def _save_rules(comparison: "ModelComparison", reports: "Sequence[CascadeReport]") -> list[Path]:
    """Write the rule of each student into its folder, as `cascade.json`.

    Returns:
        The files; none for a model whose folder can't be written to.
    """
    from kdcli.evaluation.cascade.deferral_rule import rule_to_json
    from kdcli.models import model_io

    paths = {model["name"]: Path(model["path"]) for model in comparison.evaluation["models"]}
    files = []
    for report in reports:
        path = paths[report.student]
        folder = path.parent.parent if path.is_file() else model_io.get_model_folder(path)
        if os.access(folder, os.W_OK):
            content = {"teacher": report.teacher, **rule_to_json(report.rule)}
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            write_text_atomically(folder / CASCADE_FILE, text)
            files.append(folder / CASCADE_FILE)
    return files
