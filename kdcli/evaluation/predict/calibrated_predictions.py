"""Asking a classifier about all the texts that its figures need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from kdcli.data.dataset_splits import DatasetSplits
from kdcli.evaluation.calibration.inference_config import Calibration
from kdcli.evaluation.calibration.out_of_scope_threshold import OutOfScopeThreshold
from kdcli.evaluation.metrics import task_evaluators
from kdcli.evaluation.metrics.out_of_scope import MahalanobisScorer
from kdcli.evaluation.predict.inference import ClassifierOutputs, ModelGroup
from kdcli.evaluation.predict.predictions import Predictions
from kdcli.progress import ProgressCounter, Reporter
from kdcli.recipe.schema import EvaluateConfig

if TYPE_CHECKING:
    from datasets import Dataset

_TRAIN, VALIDATION = "train", "validation"
_TEXTS_PER_CLASS = 20  # training texts of each label that the Mahalanobis distance is fitted on


@dataclass(frozen=True)
class EvaluationRequest:
    """What is asked of each classifier.

    Attributes:
        model_group: The classifiers.
        corpus: The texts.
        config: How to measure.
        splits: What to measure on.
        saved_calibrations: The settings of the classifiers that bring them.
    """

    model_group: ModelGroup
    corpus: DatasetSplits
    config: EvaluateConfig
    splits: Sequence[str]
    saved_calibrations: Mapping[str, Calibration]

    @cached_property
    def out_of_scope_id(self) -> int | None:
        """The out-of-scope label's id, where one is named and the models know it."""
        name = self.config.out_of_scope
        return self.model_group.labels.index(name) if name in self.model_group.labels else None

    @cached_property
    def in_scope_train_sample(self) -> "Dataset | None":
        """Some in-scope training texts of each label, to tell what is unlike all of them."""
        train = self.corpus.splits.get(_TRAIN)
        if train is None or self.out_of_scope_id is None or _TRAIN in self.splits:
            return None
        references = self.model_group.reference_labels(train)
        order = np.argsort(references, kind="stable")
        sorted_ids = references[order]
        place_in_class = np.arange(len(order)) - np.searchsorted(sorted_ids, sorted_ids)
        inside = (sorted_ids >= 0) & (sorted_ids != self.out_of_scope_id)
        few = order[inside & (place_in_class < _TEXTS_PER_CLASS)]
        return train.select(np.sort(few)) if len(few) else None

    def splits_to_predict(self, model_name: str) -> list[str]:
        """The splits that a classifier is run over."""
        tunes = model_name not in self.saved_calibrations and VALIDATION in self.corpus.splits
        return list(dict.fromkeys([*self.splits, *([VALIDATION] if tunes else [])]))


@dataclass(frozen=True)
class CalibratedPredictions:
    """What a classifier said.

    Attributes:
        by_split: By split.
        calibration: Its own or chosen on validation; None where there was nothing to choose on.
        alternative_operating_points: Its threshold at other budgets, where it was chosen here.
    """

    by_split: Mapping[str, Predictions]
    calibration: Calibration | None
    alternative_operating_points: Sequence[OutOfScopeThreshold] = ()


def predict_all_models(
    request: EvaluationRequest, reporter: Reporter
) -> dict[str, CalibratedPredictions]:
    """Run every classifier, and choose temperature and threshold where it brings none."""
    run = list(request.model_group.models)
    texts = sum(
        len(request.corpus.splits[s]) for name in run for s in request.splits_to_predict(name)
    )
    advance = ProgressCounter(reporter, texts + len(run) * len(request.in_scope_train_sample or ()))
    return {
        name: _predict_model(request, name, advance) for name in request.model_group.model_names
    }


def _predict_model(
    request: EvaluationRequest, model_name: str, progress: ProgressCounter
) -> CalibratedPredictions:
    run = partial(
        request.model_group.predict, model_name, batch_size=request.config.batch_size, progress=progress,
        with_features=request.in_scope_train_sample is not None,
    )  # fmt: skip
    told = model_name in request.model_group.precomputed_logits
    outputs = {
        split: request.model_group.precomputed_outputs(model_name, split)
        if told
        else run(request.corpus.splits[split])
        for split in request.splits_to_predict(model_name)
    }
    settings = request.saved_calibrations.get(model_name)
    points: Sequence[OutOfScopeThreshold] = ()
    if settings is None and VALIDATION in outputs:
        settings, points = _calibrate_on_validation(request, outputs[VALIDATION])
    distance: MahalanobisScorer | None = None
    if request.in_scope_train_sample is not None and not told:
        states = run(request.in_scope_train_sample).features
        if states is not None:
            distance = MahalanobisScorer(
                states, request.model_group.reference_labels(request.in_scope_train_sample)
            )
    answers = {}
    for split in request.splits:
        states = outputs[split].features
        far = {} if distance is None or states is None else {"mahalanobis": distance(states)}
        answers[split] = Predictions(outputs[split].logits, settings, far, request.model_group.task)
    return CalibratedPredictions(answers, settings, points)


def _calibrate_on_validation(
    request: EvaluationRequest, outputs: ClassifierOutputs
) -> tuple[Calibration, Sequence[OutOfScopeThreshold]]:
    field = request.model_group
    references = field.reference_labels(request.corpus.splits[VALIDATION])
    found = task_evaluators.get_task_evaluator(field.task).calibrate_on_validation(
        outputs.logits, references, field.labels, request.out_of_scope_id, request.config
    )
    return found.calibration, found.alternative_operating_points
