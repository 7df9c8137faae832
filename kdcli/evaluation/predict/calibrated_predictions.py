"""Predictions of all models on all splits, calibrated on the validation split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from kdcli.data.dataset_splits import DatasetSplits
from kdcli.evaluation.calibration.inference_config import Calibration
from kdcli.evaluation.calibration.out_of_scope_threshold import OutOfScopeThreshold
from kdcli.evaluation.metrics import base
from kdcli.evaluation.metrics.out_of_scope import MahalanobisInScopeScorer
from kdcli.evaluation.predict.eval_models import ClassifierOutputs
from kdcli.evaluation.predict.model_logits import ComparedModels
from kdcli.evaluation.predict.predictions import Predictions
from kdcli.progress import Reporter, StageProgress
from kdcli.recipe.schema import EvaluateConfig

if TYPE_CHECKING:
    from datasets import Dataset

_TRAIN, VALIDATION = "train", "validation"
# Training texts of each label that the Mahalanobis distance is fitted on.
_TEXTS_PER_CLASS = 20


@dataclass(frozen=True)
class EvaluationRequest:
    """Models, data and options of an evaluation.

    Attributes:
        model_group: The models.
        corpus: The data set.
        config: The recipe's `evaluate` section.
        splits: The splits to evaluate on.
        saved_calibrations: Calibrations from the `kd.json` of models, by model name.
        exported_from: The source of each exported model, which has the same calibration.
    """

    model_group: ComparedModels
    corpus: DatasetSplits
    config: EvaluateConfig
    splits: Sequence[str]
    saved_calibrations: Mapping[str, Calibration]
    exported_from: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def out_of_scope_id(self) -> int | None:
        """The id of the out-of-scope label, or None if the recipe or the models have none."""
        name = self.config.out_of_scope
        return self.model_group.labels.index(name) if name in self.model_group.labels else None

    @cached_property
    def in_scope_train_sample(self) -> "Dataset | None":
        """In-scope training texts, at most 20 per label, to fit the Mahalanobis distance on.

        None without an out-of-scope label or train split, or if train is evaluated itself.
        """
        train = self.corpus.splits.get(_TRAIN)
        if train is None or self.out_of_scope_id is None or _TRAIN in self.splits:
            return None
        references = self.model_group.reference_labels(train)
        order = np.argsort(references, kind="stable")
        sorted_ids = references[order]
        rank_in_class = np.arange(len(order)) - np.searchsorted(sorted_ids, sorted_ids)
        in_scope = (sorted_ids >= 0) & (sorted_ids != self.out_of_scope_id)
        sample = order[in_scope & (rank_in_class < _TEXTS_PER_CLASS)]
        return train.select(np.sort(sample)) if len(sample) else None

    def splits_to_predict(self, model_name: str) -> list[str]:
        """Return the splits that a model has to predict, validation included for calibration."""
        is_calibrated = model_name in self.saved_calibrations or model_name in self.exported_from
        calibrates = not is_calibrated and VALIDATION in self.corpus.splits
        return list(dict.fromkeys([*self.splits, *([VALIDATION] if calibrates else [])]))


@dataclass(frozen=True)
class CalibratedPredictions:
    """Predictions of one model.

    Attributes:
        by_split: The predictions, by split.
        calibration: Saved with the model or fitted on validation; None without a validation split.
        alternative_operating_points: Thresholds for other budgets, if they were chosen here.
    """

    by_split: Mapping[str, Predictions]
    calibration: Calibration | None
    alternative_operating_points: Sequence[OutOfScopeThreshold] = ()


def predict_all_models(
    request: EvaluationRequest, reporter: Reporter
) -> dict[str, CalibratedPredictions]:
    """Run every model, and calibrate those without a saved calibration."""
    names = list(request.model_group.models)
    texts = sum(
        len(request.corpus.splits[s]) for name in names for s in request.splits_to_predict(name)
    )
    progress = StageProgress(
        reporter, texts + len(names) * len(request.in_scope_train_sample or ())
    )
    # An exported model is deployed with the calibration of its source, which comes first.
    predictions: dict[str, CalibratedPredictions] = {}
    for name in sorted(request.model_group.model_names, key=request.exported_from.__contains__):
        source = request.exported_from.get(name)
        calibration = None if source is None else predictions[source].calibration
        predictions[name] = _predict_model(request, name, progress, calibration)
    return {name: predictions[name] for name in request.model_group.model_names}


def _predict_model(
    request: EvaluationRequest,
    model_name: str,
    progress: StageProgress,
    calibration: Calibration | None,
) -> CalibratedPredictions:
    run = partial(
        request.model_group.predict,
        model_name,
        batch_size=request.config.batch_size,
        progress=progress,
        with_features=request.in_scope_train_sample is not None,
    )
    is_precomputed = model_name in request.model_group.precomputed_logits
    outputs = {
        split: request.model_group.precomputed_outputs(model_name, split)
        if is_precomputed
        else run(request.corpus.splits[split])
        for split in request.splits_to_predict(model_name)
    }
    calibration = request.saved_calibrations.get(model_name, calibration)
    operating_points: Sequence[OutOfScopeThreshold] = ()
    if calibration is None and VALIDATION in outputs:
        calibration, operating_points = _calibrate_on_validation(request, outputs[VALIDATION])
    scorer: MahalanobisInScopeScorer | None = None
    if request.in_scope_train_sample is not None and not (
        is_precomputed or model_name in request.exported_from
    ):
        features = run(request.in_scope_train_sample).features
        if features is not None:
            scorer = MahalanobisInScopeScorer(
                features, request.model_group.reference_labels(request.in_scope_train_sample)
            )
    predictions = {}
    for split in request.splits:
        features = outputs[split].features
        scores = {} if scorer is None or features is None else {"mahalanobis": scorer(features)}
        predictions[split] = Predictions(
            outputs[split].logits, calibration, scores, request.model_group.task
        )
    return CalibratedPredictions(predictions, calibration, operating_points)


def _calibrate_on_validation(
    request: EvaluationRequest, outputs: ClassifierOutputs
) -> tuple[Calibration, Sequence[OutOfScopeThreshold]]:
    group = request.model_group
    references = group.reference_labels(request.corpus.splits[VALIDATION])
    result = base.get_task_evaluator(group.task).calibrate_on_validation(
        outputs.logits, references, group.labels, request.out_of_scope_id, request.config
    )
    return result.calibration, result.alternative_operating_points
