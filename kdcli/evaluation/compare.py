"""Evaluation of several models on the same texts."""

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
from kdcli.evaluation.efficiency import latency, model_costs
from kdcli.evaluation.evaluation_splits import select_evaluation_splits
from kdcli.evaluation.metrics import base
from kdcli.evaluation.metrics.metric_results import MetricResults
from kdcli.evaluation.metrics.single_label import metrics_at_out_of_scope_thresholds
from kdcli.evaluation.output import evaluation_schema
from kdcli.evaluation.predict import model_logits
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
    """Result of an evaluation.

    Attributes:
        evaluation: The content of `evaluation.json`, see docs/guides/figures.md.
        corpus: The data set.
        labels: The names of the labels, by id.
        predictions: The predictions, by split and model.
    """

    evaluation: dict[str, Any]
    corpus: DatasetSplits
    labels: tuple[str, ...]
    predictions: Mapping[str, Mapping[str, Predictions]]


def compare_models(
    model_paths: Mapping[str, Path],
    corpus: DatasetSplits,
    config: EvaluateConfig,
    max_length: int | None,
    reporter: Reporter,
    *,
    truncate: TruncationMode | None = None,
    saved_calibrations: Mapping[str, Calibration] | None = None,
    reference_model: str | None = None,
    precomputed_logits: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    exported_from: Mapping[str, str] | None = None,
) -> ModelComparison:
    """Evaluate models on the splits that the recipe names.

    Each model runs once over each split; all metrics are computed from its logits.

    Args:
        model_paths: The models' folders, or their ONNX files, by name.
        corpus: The data set.
        config: The recipe's `evaluate` section.
        max_length: Tokens to keep of a text, if fewer than the models accept.
        reporter: Receives progress, and notes on the predictions.
        truncate: The tokens to keep of a longer text.
        saved_calibrations: Temperature and thresholds saved with models. The other models are
            calibrated on the validation split, if there is one.
        reference_model: The model to compare the others with; see `reference_for_model`.
        precomputed_logits: Logits of black-box teachers; see `ComparedModels`. They have no costs.
        exported_from: The source of each exported model, whose temperature and thresholds it takes.

    Raises:
        DataError: The data has none of the splits, or the out-of-scope label is invalid.
        ModelError: The labels of a model differ from those of the data or of another model.
    """
    splits = select_evaluation_splits(config, corpus)
    can_calibrate = VALIDATION in corpus.splits
    calibrations = _usable_calibrations(
        saved_calibrations or {}, config.out_of_scope, can_calibrate
    )
    names = [*(precomputed_logits or {}), *model_paths]
    used = [*splits, *([VALIDATION] if can_calibrate and len(calibrations) < len(names) else [])]
    group = model_logits.load_models_to_compare(
        model_paths,
        corpus,
        used,
        max_length,
        reporter,
        truncate=truncate,
        precomputed_logits=precomputed_logits,
    )
    sources = {
        name: source for name, source in (exported_from or {}).items() if source in model_paths
    }
    request = EvaluationRequest(group, corpus, config, splits, calibrations, sources)
    timed_texts = model_logits.sample_text_tuples(corpus.splits[splits[-1]], config.latency_texts)
    texts = sum(len(corpus.splits[split]) for split in used)
    share = texts / (texts + latency.count_timed_texts(len(timed_texts)))
    reporter.phase("label the texts", 0.0, share)
    predictions = predict_all_models(request, reporter)
    reporter.phase("compute metrics and intervals", share, share)
    references = {
        name: evaluation_schema.reference_for_model(name, names, reference_model, sources)
        for name in names
    }
    repeated, results = {}, {}
    for split in splits:
        _report_constant_predictions(split, predictions, request, reporter)
        occurs_in_train, repeated[split] = _find_train_duplicates(corpus, split)
        results[split] = _evaluate_split(request, split, predictions, references, occurs_in_train)
    reporter.phase("time the models", share)
    costs = model_costs.measure_model_costs(group.models, timed_texts, references, reporter.advance)
    evaluation = {
        "kd": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "threads": torch.get_num_threads(),
        "interval": {"level": CONFIDENCE_LEVEL, "resamples": NUM_RESAMPLES},
        "task": group.task.name,
        "labels": group.labels,
        "labels_from": "data" if corpus.has_labels else evaluation_schema.TEACHER,
        "out_of_scope": None if request.out_of_scope_id is None else config.out_of_scope,
        "against": reference_model,
        "examples": {split: len(corpus.splits[split]) for split in splits},
        "sources": {split: corpus.source_split_names.get(split, split) for split in splits},
        "repeated": repeated,
        "models": [
            {
                "name": name,
                "path": str(model_paths.get(name, "")),
                "reference": references[name],
                **({"exported_from": sources[name]} if name in sources else {}),
                **costs.get(name, {}),
                "settings": _calibration_json(predictions[name].calibration, name in calibrations),
                "splits": {split: results[split][name] for split in splits},
            }
            for name in names
        ],
    }
    by_split = {s: {name: predictions[name].by_split[s] for name in names} for s in splits}
    return ModelComparison(evaluation, corpus, group.labels, by_split)


def _calibration_json(calibration: Calibration | None, is_saved: bool) -> dict[str, Any] | None:
    """Return a model's calibration, and whether it was saved or fitted on validation."""
    if calibration is None:
        return None
    return {**asdict(calibration), "from": "model" if is_saved else VALIDATION}


def _usable_calibrations(
    saved_calibrations: Mapping[str, Calibration], out_of_scope: str | None, can_calibrate: bool
) -> dict[str, Calibration]:
    """Return the saved calibrations that can be used.

    A calibration for another out-of-scope label is replaced, or reduced to its temperature.

    Args:
        saved_calibrations: Calibrations saved with models, by name.
        out_of_scope: The out-of-scope label, or None.
        can_calibrate: True if the data has a validation split.
    """
    usable = {
        name: calibration
        for name, calibration in saved_calibrations.items()
        if getattr(calibration.operating_point, "label", None) == out_of_scope
    }
    if can_calibrate:
        return usable
    return {
        name: Calibration(calibration.temperature)
        for name, calibration in saved_calibrations.items()
    } | usable


def _report_constant_predictions(
    split: str,
    predictions: Mapping[str, CalibratedPredictions],
    request: EvaluationRequest,
    reporter: Reporter,
) -> None:
    group = request.model_group
    num_references = len(np.unique(group.reference_labels(request.corpus.splits[split]), axis=0))
    kind = "labels" if group.task is SINGLE_LABEL else "values"
    evaluator = base.get_task_evaluator(group.task)
    for name, prediction in predictions.items():
        distinct = np.unique(prediction.by_split[split].predicted, axis=0)
        if len(distinct) == 1 and num_references > 1:
            (constant,) = evaluator.format_predictions(group.labels, distinct)
            reporter.info(
                f"{name} predicts {constant or 'no label'} for every {split} text; the data has "
                f"{num_references} different {kind}."
            )


def _find_train_duplicates(
    corpus: DatasetSplits, split: str
) -> tuple[np.ndarray, dict[str, int] | None]:
    """Find the texts that also occur in train. The counts are None without a train split."""
    if split == "train" or "train" not in corpus.splits:
        return np.zeros(len(corpus.splits[split]), dtype=bool), None
    occurs, other_label = duplicates.find_train_overlap(
        corpus.splits[split], corpus.splits["train"]
    )
    return occurs, {"texts": int(occurs.sum()), "other_label": int(other_label.sum())}


def _evaluate_split(
    request: EvaluationRequest,
    split: str,
    predictions: Mapping[str, CalibratedPredictions],
    reference_models: Mapping[str, str | None],
    occurs_in_train: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """Return the metrics of each model on one split, as in `evaluation.json`."""
    group = request.model_group
    evaluator = base.get_task_evaluator(group.task)
    references = group.reference_labels(request.corpus.splits[split])
    resamples = BootstrapResamples(len(references))
    truth = GroundTruth(references, group.labels, request.out_of_scope_id, resamples)
    by_model = {name: prediction.by_split[split] for name, prediction in predictions.items()}
    results = {
        name: evaluator.compute_metrics(
            truth, predicted, by_model[other] if (other := reference_models[name]) else None
        )
        for name, predicted in by_model.items()
    }
    metrics_by_model = {}
    for name, result in results.items():
        metrics: dict[str, Any] = {
            **result.values,
            "intervals": {
                key: bounds
                for key, value in result.values.items()
                if key in result.resampled_values
                and (bounds := confidence_interval(key, value, result.resampled_values[key]))
            },
            **result.details,
            "against": {
                other: _compare_pair(
                    evaluator, truth, (result, by_model[name]), (results[other], by_model[other])
                )
                for other in results
                if other != name
            },
        }
        if occurs_in_train.any() and not occurs_in_train.all():
            metrics["unrepeated"] = evaluator.metrics_from_predictions(
                references[~occurs_in_train],
                by_model[name].predicted[~occurs_in_train],
                request.out_of_scope_id,
            )
        if predictions[name].alternative_operating_points:
            metrics["budgets"] = metrics_at_out_of_scope_thresholds(
                truth, by_model[name], predictions[name].alternative_operating_points
            )
        metrics_by_model[name] = metrics
    return metrics_by_model


def _compare_pair(
    evaluator: base.TaskEvaluator,
    truth: GroundTruth,
    model: tuple[MetricResults, Predictions],
    other_model: tuple[MetricResults, Predictions],
) -> dict[str, Any]:
    """Compare two models on the same texts and the same bootstrap draws."""
    (results, predictions), (other_results, other_predictions) = model, other_model
    test = evaluator.compare_correctness(truth, predictions, other_predictions)
    differences = {}
    for name in (
        results.values.keys()
        & other_results.values.keys()
        & results.resampled_values.keys()
        & other_results.resampled_values.keys()
    ):
        value = results.values[name] - other_results.values[name]
        bounds = confidence_interval(
            name,
            value,
            results.resampled_values[name] - other_results.resampled_values[name],
            is_difference=True,
        )
        if bounds is None:
            continue
        low, high = bounds
        # McNemar's test compares the numbers of correct texts, so it applies to accuracy alone.
        not_significant = (
            name in ("accuracy", "subset_accuracy") and test["p"] > 1 - CONFIDENCE_LEVEL
        )
        noise = low <= 0 <= high or not_significant
        differences[name] = {"value": value, "low": low, "high": high, "noise": noise}
    return {**test, "differences": dict(sorted(differences.items()))}
