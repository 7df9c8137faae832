"""Several classifiers, side by side, on the same texts."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcli import __version__
from kdcli.data.checks import duplicates
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.evaluation.calibration.inference_config import Calibration
from kdcli.evaluation.efficiency import model_costs
from kdcli.evaluation.evaluation_splits import select_evaluation_splits
from kdcli.evaluation.metrics import task_evaluators
from kdcli.evaluation.metrics.metric_results import MetricResults
from kdcli.evaluation.metrics.single_label import metrics_at_operating_points
from kdcli.evaluation.output import evaluation_json
from kdcli.evaluation.predict import inference
from kdcli.evaluation.predict.calibrated_predictions import (
    VALIDATION,
    CalibratedPredictions,
    EvaluationRequest,
    predict_all_models,
)
from kdcli.evaluation.predict.predictions import GroundTruth, Predictions
from kdcli.evaluation.uncertainty.bootstrap import (
    CONFIDENCE_LEVEL,
    NUM_RESAMPLES,
    BootstrapResamples,
    confidence_interval,
)
from kdcli.progress import Reporter
from kdcli.recipe.data import TruncationMode
from kdcli.recipe.schema import EvaluateConfig
from kdcli.tasks import SINGLE_LABEL


@dataclass(frozen=True)
class ModelComparison:
    """What was measured.

    Attributes:
        evaluation: What `evaluation.json` holds; docs/guides/figures.md describes it.
        corpus: The texts.
        labels: The classes' names, by id.
        predictions: By split and model.
    """

    evaluation: dict[str, Any]
    corpus: DatasetSplits
    labels: tuple[str, ...]
    predictions: Mapping[str, Mapping[str, Predictions]]


def compare_models(
    model_folders: Mapping[str, Path],
    corpus: DatasetSplits,
    config: EvaluateConfig,
    max_length: int | None,
    reporter: Reporter,
    *,
    truncate: TruncationMode | None = None,
    saved_calibrations: Mapping[str, Calibration] | None = None,
    reference_model: str | None = None,
    precomputed_logits: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> ModelComparison:
    """Measure classifiers on the splits that the spec names.

    Each model runs once over each split, and all figures come from its logits.

    Args:
        model_folders: Models by name.
        corpus: The texts.
        config: Splits, out-of-scope label and budget, batch size, texts to time.
        max_length: Tokens to keep of a text, where less than the models take.
        reporter: Told of every batch, and of what the user should know of the texts.
        truncate: Which tokens to keep of a longer text.
        saved_calibrations: Temperature and threshold of the models that bring them; the others' are chosen
            on the validation texts, where there are any.
        reference_model: The model that the others are compared with; see `document.reference`.
        precomputed_logits: What others say that can't be run, and so have no cost; see `passes.Field`.

    Raises:
        DataError: None of the splits is there, or the out-of-scope label is no label.
        ModelError: A model's labels differ from the data's or from another model's.
    """
    splits = select_evaluation_splits(config, corpus)
    to_tune = VALIDATION in corpus.splits
    kept = _usable_calibrations(saved_calibrations or {}, config.out_of_scope, to_tune)
    names = [*(precomputed_logits or {}), *model_folders]
    used = [*splits, *([VALIDATION] if to_tune and len(kept) < len(names) else [])]
    field = inference.load_model_group(
        model_folders,
        corpus,
        used,
        max_length,
        reporter,
        truncate=truncate,
        precomputed_logits=precomputed_logits,
    )
    question = EvaluationRequest(field, corpus, config, splits, kept)
    said = predict_all_models(question, reporter)
    references = {
        name: evaluation_json.reference_model_name(name, names, reference_model) for name in names
    }
    repeated, measured = {}, {}
    for split in splits:
        _report_constant_predictions(split, said, question, reporter)
        again, repeated[split] = _find_train_duplicates(corpus, split)
        measured[split] = _evaluate_split(question, split, said, references, again)
    timed = inference.sample_text_tuples(corpus.splits[splits[-1]], config.latency_texts)
    costs = model_costs.measure_model_costs(field.models, timed, references)
    found = {
        "kd": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "threads": torch.get_num_threads(),
        "interval": {"level": CONFIDENCE_LEVEL, "resamples": NUM_RESAMPLES},
        "task": field.task.name,
        "labels": field.labels,
        "labels_from": "data" if corpus.has_labels else evaluation_json.TEACHER,
        "out_of_scope": None if question.out_of_scope_id is None else config.out_of_scope,
        "against": reference_model,
        "examples": {split: len(corpus.splits[split]) for split in splits},
        "sources": {split: corpus.source_split_names.get(split, split) for split in splits},
        "repeated": repeated,
        "models": [
            {
                "name": name,
                "path": str(model_folders.get(name, "")),
                "reference": references[name],
                **costs.get(name, {}),
                "settings": _calibration_json(said[name].calibration, name in kept),
                "splits": {split: measured[split][name] for split in splits},
            }
            for name in names
        ],
    }
    answers = {s: {name: said[name].by_split[s] for name in names} for s in splits}
    return ModelComparison(found, corpus, field.labels, answers)


def _calibration_json(calibration: Calibration | None, is_saved: bool) -> dict[str, Any] | None:
    """A model's temperature and threshold, and where they come from."""
    if calibration is None:
        return None
    return {**asdict(calibration), "from": "model" if is_saved else VALIDATION}


def _usable_calibrations(
    saved_calibrations: Mapping[str, Calibration], out_of_scope: str | None, can_calibrate: bool
) -> dict[str, Calibration]:
    """What models bring for this out-of-scope label; with another one, their temperature at best.

    Args:
        saved_calibrations: What they bring.
        out_of_scope: The label, where one is named.
        can_calibrate: Whether there are texts to choose on instead.
    """
    fitting = {
        name: settings
        for name, settings in saved_calibrations.items()
        if getattr(settings.operating_point, "label", None) == out_of_scope
    }
    if can_calibrate:
        return fitting
    return {
        name: Calibration(settings.temperature) for name, settings in saved_calibrations.items()
    } | fitting


def _report_constant_predictions(
    split: str,
    predictions: Mapping[str, CalibratedPredictions],
    request: EvaluationRequest,
    reporter: Reporter,
) -> None:
    field = request.model_group
    truths = len(np.unique(field.reference_labels(request.corpus.splits[split]), axis=0))
    what = "label" if field.task is SINGLE_LABEL else "answer"
    for name, one in predictions.items():
        given = np.unique(one.by_split[split].predicted, axis=0)
        if len(given) == 1 and truths > 1:
            (word,) = task_evaluators.get_task_evaluator(field.task).format_predictions(
                field.labels, given
            )
            reporter.info(
                f"{name} gives every {split} text the same {what}, {word or 'no label'}, "
                f"where there are {truths}."
            )


def _find_train_duplicates(
    corpus: DatasetSplits, split: str
) -> tuple[np.ndarray, dict[str, int] | None]:
    """Which texts occur in train too, and how many; None where there is no other train split."""
    if split == "train" or "train" not in corpus.splits:
        return np.zeros(len(corpus.splits[split]), dtype=bool), None
    again, otherwise = duplicates.find_train_overlap(corpus.splits[split], corpus.splits["train"])
    return again, {"texts": int(again.sum()), "other_label": int(otherwise.sum())}


def _evaluate_split(
    request: EvaluationRequest,
    split: str,
    predictions: Mapping[str, CalibratedPredictions],
    reference_models: Mapping[str, str | None],
    occurs_in_train: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """Each model's part of the document on one split."""
    field, kind = request.model_group, task_evaluators.get_task_evaluator(request.model_group.task)
    gold = field.reference_labels(request.corpus.splits[split])
    truth = GroundTruth(gold, field.labels, request.out_of_scope_id, BootstrapResamples(len(gold)))
    answers = {name: one.by_split[split] for name, one in predictions.items()}
    found = {
        name: kind.compute_metrics(
            truth, own, answers[other] if (other := reference_models[name]) else None
        )
        for name, own in answers.items()
    }
    measured = {}
    for name, one in found.items():
        rows: dict[str, Any] = {
            **one.values,
            "intervals": {
                key: bounds
                for key, value in one.values.items()
                if key in one.resampled_values
                and (bounds := confidence_interval(key, value, one.resampled_values[key]))
            },
            **one.details,
            "against": {
                other: _compare_pair(
                    kind, truth, (one, answers[name]), (found[other], answers[other])
                )
                for other in found
                if other != name
            },
        }
        if occurs_in_train.any() and not occurs_in_train.all():
            rows["unrepeated"] = kind.metrics_from_predictions(
                gold[~occurs_in_train],
                answers[name].predicted[~occurs_in_train],
                request.out_of_scope_id,
            )
        if predictions[name].alternative_operating_points:
            rows["budgets"] = metrics_at_operating_points(
                truth, answers[name], predictions[name].alternative_operating_points
            )
        measured[name] = rows
    return measured


def _compare_pair(
    evaluator: task_evaluators.TaskEvaluator,
    truth: GroundTruth,
    model: tuple[MetricResults, Predictions],
    other_model: tuple[MetricResults, Predictions],
) -> dict[str, Any]:
    """A model against another one, in pairs: the same texts, the same draws."""
    (mine, said), (its, others) = model, other_model
    test = evaluator.compare_predictions(truth, said, others)
    differences = {}
    for name in (
        mine.values.keys()
        & its.values.keys()
        & mine.resampled_values.keys()
        & its.resampled_values.keys()
    ):
        value = mine.values[name] - its.values[name]
        bounds = confidence_interval(
            name,
            value,
            mine.resampled_values[name] - its.resampled_values[name],
            is_difference=True,
        )
        if bounds is None:
            continue
        low, high = bounds
        # McNemar's test is of accuracy: of whole texts that are right.
        tested = name in ("accuracy", "subset_accuracy") and test["p"] > 1 - CONFIDENCE_LEVEL
        noise = low <= 0 <= high or tested
        differences[name] = {"value": value, "low": low, "high": high, "noise": noise}
    return {**test, "differences": dict(sorted(differences.items()))}
