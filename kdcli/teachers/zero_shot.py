"""Zero-shot classification by a natural language inference model.

Each label becomes a hypothesis, such as "This text is about sports."; see Yin, Hay and Roth 2019,
Benchmarking Zero-shot Text Classification.
"""

import re
from typing import TYPE_CHECKING

import numpy as np

from kdcli.data.column_access import sample_texts, text_column_names
from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.errors import DataError, ModelError
from kdcli.models import model_io
from kdcli.models.logit_prediction import predict_logits
from kdcli.models.padding_invariance import choose_invariant_padding, create_collator
from kdcli.models.sequence_length import get_max_length
from kdcli.recipe.black_box_teachers import ZeroShotTeacherConfig
from kdcli.tasks import MULTI_LABEL
from kdcli.teachers.black_box_context import BlackBoxContext, PredictLogits, ProgressCallback

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 64
_MAX_PAIRS_IN_MEMORY = 20_000


def check_teacher(config: ZeroShotTeacherConfig, context: BlackBoxContext) -> None:
    """Check that the model is an entailment model, and that the data has single texts.

    Raises:
        ModelError: The model is missing, or has other labels.
        DataError: The texts are pairs.
    """
    if "text_pair" in text_column_names(context.dataset_splits.splits["train"]):
        raise DataError(
            "A zero-shot teacher pairs each text with a hypothesis, so the data can't have pairs."
        )
    folder = model_io.locate_model(config.model, config.revision, allow_pickle=context.allow_pickle)
    _entailment_and_contradiction_indices(
        model_io.get_label_names(model_io.load_config(folder)), config.model
    )
    model_io.load_tokenizer(folder)


def create_predictor(config: ZeroShotTeacherConfig, context: BlackBoxContext) -> PredictLogits:
    """Load the model, and return a predictor of each label's entailment.

    With one label per text, a label's logit is that of entailment. With several, it is the logit of
    entailment minus that of contradiction, so that each label is decided on its own.
    """
    from datasets import Dataset

    folder = model_io.locate_model(config.model, config.revision, allow_pickle=context.allow_pickle)
    model, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
    entailed, contradicted = _entailment_and_contradiction_indices(
        model_io.get_label_names(model.config), config.model
    )
    labels = context.dataset_splits.label_names
    hypotheses = [config.hypothesis_template.format(config.descriptions.get(n, n)) for n in labels]
    limit = get_max_length(model, tokenizer, context.data_config.max_length)
    some = sample_texts(context.dataset_splits.splits["train"])[0]
    pairs_tried = [some, hypotheses[:1] * len(some)]
    choose_invariant_padding(model, tokenizer, config.model, pairs_tried, max_length=limit)
    collate = create_collator(model, tokenizer)

    def predict(split: "Dataset", advance: ProgressCallback) -> np.ndarray:
        logits = np.empty((len(split), len(labels)), dtype=np.float32)
        step = max(1, _MAX_PAIRS_IN_MEMORY // len(labels))
        for start in range(0, len(split), step):
            texts = split[start : start + step]["text"]
            pairs = Dataset.from_dict(
                {
                    "text": [text for text in texts for _ in labels],
                    "text_pair": hypotheses * len(texts),
                }
            )

            def advance_all(done: int, total: int, start: int = start) -> None:
                advance(start + done // len(labels), len(split))

            pair_logits = predict_logits(
                model, collate, tokenize_dataset(pairs, tokenizer, limit), _BATCH, advance_all
            )
            scores = pair_logits[:, entailed]
            if context.dataset_splits.task is MULTI_LABEL:
                scores = scores - pair_logits[:, contradicted]
            logits[start : start + len(texts)] = scores.reshape(len(texts), len(labels))
        return logits

    return predict


def _entailment_and_contradiction_indices(
    label_names: tuple[str, ...], model_reference: str
) -> tuple[int, int]:
    """Return the indices of the model's entailment and contradiction outputs."""
    denied = re.compile(r"contradict|not[_ -]?entail", re.IGNORECASE)
    against = [i for i, label in enumerate(label_names) if denied.search(label)]
    entailed = [i for i, n in enumerate(label_names) if "entail" in n.lower() and i not in against]
    if len(entailed) != 1 or len(against) != 1:
        raise ModelError(
            f"teacher.model: {model_reference} has the labels {', '.join(label_names[:8])}, "
            "which are not entailment and contradiction.",
            "Choose a model that was fine-tuned on natural language inference, such as MNLI.",
        )
    return entailed[0], against[0]
