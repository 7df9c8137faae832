"""Loading of models to compare, and their logits on a split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data.column_access import sample_texts
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.data.labels.label_matching import explain_label_match
from kdcli.errors import ModelError
from kdcli.evaluation.calibration import inference_config
from kdcli.evaluation.predict.eval_models import (
    ClassifierOutputs,
    EvalModel,
    RuntimeEvalModel,
    load_onnx_classifier,
)
from kdcli.family_runtimes import RUNTIMES, find_family_runtime, load_family_classifier
from kdcli.models import model_io
from kdcli.models.padding_invariance import (
    choose_invariant_padding,
    padding_sensitivity_warning,
)
from kdcli.models.sequence_length import get_max_length
from kdcli.progress import Reporter, StageProgress
from kdcli.recipe.data import TruncationMode
from kdcli.sanitize import abbreviate_list
from kdcli.tasks import REGRESSION, Task

if TYPE_CHECKING:
    from datasets import Dataset

# Logit of a label that a precomputed model doesn't have, below the lowest of the others.
_UNKNOWN_MARGIN = 10.0


@dataclass(frozen=True)
class ComparedModels:
    """Models that are compared with each other; they have the same labels.

    Attributes:
        models: The models, by name.
        labels: The data's labels that the models know, then the other labels of the models.
        dataset_label_to_index: For each label id of the data its index in `labels`, or -1.
        corpus: The data set.
        precomputed_logits: Logits of black-box teachers and baselines, by name and split:
            (texts, labels), in the order of the data's labels.
    """

    models: Mapping[str, EvalModel | RuntimeEvalModel]
    labels: tuple[str, ...]
    dataset_label_to_index: np.ndarray
    corpus: DatasetSplits
    precomputed_logits: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def model_names(self) -> list[str]:
        """Names of all models, those with precomputed logits first."""
        return [*self.precomputed_logits, *self.models]

    @property
    def task(self) -> Task:
        """The task of the data set."""
        return self.corpus.task

    def reference_labels(self, dataset: "Dataset") -> np.ndarray:
        """Return the labels of a split in the form of `Task.predict`, as indices into `labels`."""
        return self.corpus.ground_truth_labels(
            dataset, self.dataset_label_to_index.tolist(), len(self.labels)
        )

    def precomputed_outputs(self, model_name: str, split: str) -> ClassifierOutputs:
        """Return the outputs of a model with precomputed logits."""
        logits = self.precomputed_logits[model_name][split]
        # The others are labels of the models that no text has.
        known = [label for label in self.labels if label in self.corpus.label_names]
        ordered = logits[:, [self.corpus.label_names.index(label) for label in known]]
        extra = (len(logits), len(self.labels) - len(known))
        unlikely = np.full(extra, logits.min(initial=0.0) - _UNKNOWN_MARGIN, dtype=logits.dtype)
        return ClassifierOutputs(np.concatenate([ordered, unlikely], axis=1), None)

    def predict(
        self,
        model_name: str,
        dataset: "Dataset",
        batch_size: int,
        progress: StageProgress,
        *,
        with_features: bool,
    ) -> ClassifierOutputs:
        """Run a model over a split.

        Raises:
            ModelError: A logit is NaN or infinite.
        """
        model = self.models[model_name]
        outputs = model.predict(dataset, batch_size, progress, with_features=with_features)
        if not np.isfinite(outputs.logits).all():
            raise ModelError(f"{model_name}: a logit is NaN or infinite; the weights are damaged.")
        order = [model.labels.index(label) for label in self.labels]
        return ClassifierOutputs(outputs.logits[:, order], outputs.features)


def load_models_to_compare(
    model_paths: Mapping[str, Path],
    corpus: DatasetSplits,
    splits: Sequence[str],
    max_length: int | None,
    reporter: Reporter,
    *,
    truncate: TruncationMode | None = None,
    precomputed_logits: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> ComparedModels:
    """Load models to evaluate on the same texts.

    Args:
        model_paths: The models' folders, or their ONNX files, by name.
        corpus: The data set.
        splits: The splits that will be used.
        max_length: Tokens to keep of a text, if fewer than the models accept.
        reporter: Receives notes on labels that are matched by order, and on padding.
        truncate: The tokens to keep of a longer text.
        precomputed_logits: See `ComparedModels`.

    Raises:
        ModelError: The labels of a model differ from those of the data or of another model.
    """
    present = sorted({label for split in splits for label in corpus.present_labels(split)})
    models: dict[str, EvalModel | RuntimeEvalModel] = {}
    for name, path in model_paths.items():
        config = model_io.load_label_config(model_io.get_model_folder(path))
        model_io.check_problem_type(config, corpus.task, name)
        labels = _match_label_names(
            name, model_io.get_label_names(config), corpus, present, reporter
        )
        if path.is_file():
            classifier = load_onnx_classifier(path, max_length, truncate)
            models[name] = RuntimeEvalModel(name, labels, classifier)
            continue
        if (kind := find_family_runtime(path)) is not None:
            limits: dict[str, Any] = {"max_length": max_length, "truncation": truncate}
            family_classifier = load_family_classifier(
                path, **({} if RUNTIMES[kind].reads_whole_texts else limits)
            )
            models[name] = RuntimeEvalModel(name, labels, family_classifier)
            continue
        model, tokenizer = model_io.load_classifier(path), model_io.load_tokenizer(path)
        saved = inference_config.load_input_truncation(path)
        truncation = truncate or saved.truncate
        limit = get_max_length(model, tokenizer, max_length or saved.max_length)
        texts = sample_texts(corpus.splits[splits[0]])
        choose_invariant_padding(
            model, tokenizer, name, texts, max_length=limit, truncation=truncation
        )
        if note := padding_sensitivity_warning(model, name):
            reporter.info(note)
        models[name] = EvalModel(name, path, model, tokenizer, labels, limit, truncation)
    first, *others = models.values()
    for other in others:
        _require_same_labels(first, other)
    known = [label for label in corpus.label_names if label in first.labels]
    labels = (*known, *(label for label in first.labels if label not in known))
    label_to_index = [labels.index(label) if label in known else -1 for label in corpus.label_names]
    return ComparedModels(
        models, labels, np.array(label_to_index), corpus, precomputed_logits or {}
    )


def _match_label_names(
    model_name: str,
    model_labels: Sequence[str],
    corpus: DatasetSplits,
    labels_in_data: Sequence[str],
    reporter: Reporter,
) -> tuple[str, ...]:
    if len(model_labels) < 2 and corpus.task is not REGRESSION:
        raise ModelError(
            f"{model_name} has a single output, but {corpus.task} needs one for each label."
        )
    try:
        ids = corpus.match_model_labels(model_labels, labels_in_data)
    except ModelError as error:
        raise ModelError(f"{model_name}: {error.message}", error.hint) from error
    if why := explain_label_match(corpus.label_names, model_labels):
        reporter.info(f"{model_name}: its {why}.")
    names = {index: corpus.label_names[i] for i, index in enumerate(ids) if index >= 0}
    return tuple(names.get(index, label) for index, label in enumerate(model_labels))


def _require_same_labels(
    model: EvalModel | RuntimeEvalModel, other_model: EvalModel | RuntimeEvalModel
) -> None:
    extra = [
        sorted({*a.labels} - {*b.labels}) for a, b in ((model, other_model), (other_model, model))
    ]
    if any(extra):
        raise ModelError(
            f"{model.name} and {other_model.name} have different labels: only {model.name} knows "
            f"{_format_label_names(extra[0])}, only {other_model.name} "
            f"{_format_label_names(extra[1])}.",
            "Evaluate them separately.",
        )


def _format_label_names(names: Sequence[str]) -> str:
    return abbreviate_list(names) or "nothing more"


def sample_text_tuples(dataset: "Dataset", count: int) -> list[tuple[str, ...]]:
    """Return texts evenly spread over a split, so that a sorted file gives a fair sample."""
    return list(zip(*sample_texts(dataset, count), strict=True))
