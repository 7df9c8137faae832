"""Running classifiers over texts: one pass a model and split, and all figures come from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdcli.data.column_access import sample_texts
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.data.labels.label_matching import explain_label_match
from kdcli.data.tokenization.tokenize import encoding_to_rows, tokenize_dataset, tokenize_texts
from kdcli.data.tokenization.windows import average_windows
from kdcli.errors import ModelError
from kdcli.evaluation.calibration import inference_config
from kdcli.evaluation.predict.penultimate_features import predict_logits_and_features
from kdcli.models import model_io
from kdcli.models.logit_prediction import predict_logits
from kdcli.models.padding import align_padding, create_collator, padding_warning
from kdcli.models.sequence_length import get_max_length
from kdcli.progress import ProgressCounter, Reporter
from kdcli.recipe.data import TruncationMode
from kdcli.sanitize import abbreviate_list
from kdcli.tasks import REGRESSION, Task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ClassifierOutputs:
    """What a model says of a split.

    Attributes:
        logits: float32, (texts, labels), in the order of `Field.labels`.
        features: float32, (texts, width): what its last layer reads; None where it isn't asked for,
            or the model has no linear last layer.
    """

    logits: np.ndarray
    features: np.ndarray | None


@dataclass(frozen=True)
class EvalModel:
    """A classifier that is measured.

    Attributes:
        labels: The names of its outputs, in order, the data's where it has none of its own.
        max_length: How many tokens of a text it sees.
        truncation: Which, of a longer one; see `kdcli.data.encode.read`.
    """

    name: str
    folder: Path
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    labels: tuple[str, ...]
    max_length: int
    truncation: TruncationMode | None = None

    def tokenize_batch(self, texts: Sequence[tuple[str, ...]]) -> dict[str, torch.Tensor]:
        """A padded batch of texts (or pairs), or of their windows."""
        columns = [*zip(*texts, strict=True)]
        encoding = tokenize_texts(self.tokenizer, columns, self.max_length, self.truncation)
        return create_collator(self.model, self.tokenizer)(encoding_to_rows(encoding))

    def predict_class_ids(self, texts: Sequence[tuple[str, ...]]) -> list[int]:
        """The places of the highest outputs, of each text or window."""
        batch = self.tokenize_batch(texts)
        with torch.inference_mode():
            return self.model(**batch).logits.argmax(-1).tolist()


@dataclass(frozen=True)
class ModelGroup:
    """The classifiers that stand side by side, and the labels that they all give.

    Attributes:
        models: By name.
        labels: Those of the data that the models know, in its order, then the models' others.
        dataset_label_to_index: For each of the data's label ids, the place in `labels`, or -1.
        corpus: The data.
        precomputed_logits: What others say that can't be run here: by name and split their logits, (texts,
            labels) in the order of the data's labels, all of which the classifiers know.
    """

    models: Mapping[str, EvalModel]
    labels: tuple[str, ...]
    dataset_label_to_index: np.ndarray
    corpus: DatasetSplits
    precomputed_logits: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def model_names(self) -> list[str]:
        """All that stand side by side."""
        return [*self.precomputed_logits, *self.models]

    @property
    def task(self) -> Task:
        """What the labels are."""
        return self.corpus.task

    def reference_labels(self, dataset: "Dataset") -> np.ndarray:
        """The split's labels as `task.decide` gives the models', by places in `labels`."""
        return self.corpus.ground_truth_labels(
            dataset, self.dataset_label_to_index.tolist(), len(self.labels)
        )

    def precomputed_outputs(self, model_name: str, split: str) -> ClassifierOutputs:
        """What one of `told` says of a split."""
        order = [self.corpus.label_names.index(label) for label in self.labels]
        return ClassifierOutputs(self.precomputed_logits[model_name][split][:, order], None)

    def predict(
        self,
        model_name: str,
        dataset: "Dataset",
        batch_size: int,
        progress: ProgressCounter,
        *,
        with_features: bool,
    ) -> ClassifierOutputs:
        """Run a classifier over a split.

        Raises:
            ModelError: What comes out is no number.
        """
        it = self.models[model_name]
        encoded = tokenize_dataset(dataset, it.tokenizer, it.max_length, it.truncation)
        collate = create_collator(it.model, it.tokenizer)
        features = None
        if with_features:
            found, features = predict_logits_and_features(
                it.model, collate, encoded, batch_size, progress
            )
        else:
            found = predict_logits(it.model, collate, encoded, batch_size, progress)
        if not np.isfinite(found).all():
            raise ModelError(
                f"{model_name} answers with what is no number: its weights are damaged."
            )
        order = [it.labels.index(label) for label in self.labels]
        return ClassifierOutputs(
            average_windows(found[:, order], encoded),
            None if features is None else average_windows(features, encoded),
        )


def load_model_group(
    model_folders: Mapping[str, Path],
    corpus: DatasetSplits,
    splits: Sequence[str],
    max_length: int | None,
    reporter: Reporter,
    *,
    truncate: TruncationMode | None = None,
    precomputed_logits: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> ModelGroup:
    """Load classifiers that are to be measured on the same texts.

    Args:
        model_folders: Models by name.
        corpus: The texts.
        splits: Those of them that will be used.
        max_length: Tokens to keep of a text, where less than the models take.
        reporter: Told of labels that are matched by their order.
        truncate: Which tokens to keep of a longer text.
        precomputed_logits: See `Field`.

    Raises:
        ModelError: A model's labels aren't those of the data, or of the other models.
    """
    present = sorted({label for split in splits for label in corpus.present_labels(split)})
    subjects: dict[str, EvalModel] = {}
    for name, folder in model_folders.items():
        model, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
        model_io.check_problem_type(model.config, corpus.task, name)
        names = _match_label_names(
            name, model_io.get_label_names(model.config), corpus, present, reporter
        )
        reading = inference_config.load_input_truncation(folder)
        keep = truncate or reading.truncate
        limit = get_max_length(model, tokenizer, max_length or reading.max_length)
        texts = sample_texts(corpus.splits[splits[0]])
        align_padding(model, tokenizer, name, texts, max_length=limit, truncation=keep)
        if note := padding_warning(model, name):
            reporter.info(note)
        subjects[name] = EvalModel(name, folder, model, tokenizer, names, limit, keep)
    first, *others = subjects.values()
    for other in others:
        _require_same_labels(first, other)
    known = [label for label in corpus.label_names if label in first.labels]
    labels = (*known, *(label for label in first.labels if label not in known))
    from_data = [labels.index(label) if label in known else -1 for label in corpus.label_names]
    return ModelGroup(subjects, labels, np.array(from_data), corpus, precomputed_logits or {})


def _match_label_names(
    model_name: str,
    model_labels: Sequence[str],
    corpus: DatasetSplits,
    labels_in_data: Sequence[str],
    reporter: Reporter,
) -> tuple[str, ...]:
    if len(model_labels) < 2 and corpus.task is not REGRESSION:
        raise ModelError(f"{model_name} has one output only: it is no classifier.")
    try:
        ids = corpus.match_model_labels(model_labels, labels_in_data)
    except ModelError as error:
        raise ModelError(f"{model_name}: {error.message}", error.hint) from error
    if why := explain_label_match(corpus.label_names, model_labels):
        reporter.info(f"{model_name}: its {why}.")
    by_place = {place: corpus.label_names[i] for i, place in enumerate(ids) if place >= 0}
    return tuple(by_place.get(place, label) for place, label in enumerate(model_labels))


def _require_same_labels(model: EvalModel, other_model: EvalModel) -> None:
    alone = [
        sorted({*a.labels} - {*b.labels}) for a, b in ((model, other_model), (other_model, model))
    ]
    if any(alone):
        raise ModelError(
            f"{model.name} and {other_model.name} have different labels: only {model.name} knows "
            f"{_format_label_names(alone[0])}, only {other_model.name} {_format_label_names(alone[1])}.",
            "Measure them apart.",
        )


def _format_label_names(names: Sequence[str]) -> str:
    return abbreviate_list(names) or "nothing more"


def sample_text_tuples(dataset: "Dataset", count: int) -> list[tuple[str, ...]]:
    """Texts evenly spread over a split, so that an ordered file gives a fair sample."""
    return list(zip(*sample_texts(dataset, count), strict=True))
