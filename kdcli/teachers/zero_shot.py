"""A teacher that says whether a text entails a hypothesis about it.

Yin, Hay and Roth 2019 (Benchmarking Zero-shot Text Classification): each label makes a hypothesis.
"""

import re
from typing import TYPE_CHECKING

import numpy as np

from kdcli.data.encode import encode, sample_columns
from kdcli.data.pieces import text_columns
from kdcli.errors import DataError, ModelError
from kdcli.models import source
from kdcli.models.forward import logits as logits_of
from kdcli.models.padding import align_padding, collator_for
from kdcli.models.positions import length_limit
from kdcli.recipe.black_box import ZeroShotSpec
from kdcli.tasks import MULTI_LABEL
from kdcli.teachers.asked import Advance, Asking, Setting

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 64
_PAIRS = 20_000  # held in memory at a time


def check(spec: ZeroShotSpec, setting: Setting) -> None:
    """See that the model says what a text entails, and that texts are single ones.

    Raises:
        ModelError: The model isn't there, or says something else.
        DataError: The texts are pairs.
    """
    if "text_pair" in text_columns(setting.corpus.splits["train"]):
        raise DataError(
            "A zero-shot teacher pairs each text with a hypothesis: it takes no pairs of texts."
        )
    folder = source.locate(spec.model, spec.revision, allow_pickle=setting.allow_pickle)
    _places(source.labels_of(source.load_config(folder)), spec.model)
    source.load_tokenizer(folder)


def opened(spec: ZeroShotSpec, setting: Setting) -> Asking:
    """Load the model: how much each text entails each label's hypothesis, (texts, labels).

    Of one label a text it is the logit of entailment: their softmax weighs labels against one
    another. Of several it is entailment's above contradiction's, each label for itself.
    """
    from datasets import Dataset

    folder = source.locate(spec.model, spec.revision, allow_pickle=setting.allow_pickle)
    model, tokenizer = source.load_classifier(folder), source.load_tokenizer(folder)
    entailed, contradicted = _places(source.labels_of(model.config), spec.model)
    labels = setting.corpus.labels
    hypotheses = [spec.template.format(spec.descriptions.get(n, n)) for n in labels]
    limit = length_limit(model, tokenizer, setting.data.max_length)
    some = sample_columns(setting.corpus.splits["train"])[0]
    pairs_tried = [some, hypotheses[:1] * len(some)]
    align_padding(model, tokenizer, spec.model, pairs_tried, limit=limit)
    collate = collator_for(model, tokenizer)

    def logits(split: "Dataset", advance: Advance) -> np.ndarray:
        found = np.empty((len(split), len(labels)), dtype=np.float32)
        step = max(1, _PAIRS // len(labels))
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

            told = logits_of(model, collate, encode(pairs, tokenizer, limit), _BATCH, advance_all)
            scores = told[:, entailed]
            if setting.corpus.task is MULTI_LABEL:
                scores = scores - told[:, contradicted]
            found[start : start + len(texts)] = scores.reshape(len(texts), len(labels))
        return found

    return logits


def _places(labels: tuple[str, ...], model: str) -> tuple[int, int]:
    """Which of the model's outputs are entailment and its opposite."""
    denied = re.compile(r"contradict|not[_ -]?entail", re.IGNORECASE)
    against = [i for i, label in enumerate(labels) if denied.search(label)]
    entailed = [i for i, n in enumerate(labels) if "entail" in n.lower() and i not in against]
    if len(entailed) != 1 or len(against) != 1:
        raise ModelError(
            f"teacher.model: {model} has the labels {', '.join(labels[:8])}: it doesn't say what a "
            "text entails.",
            "Take one that was fine-tuned on natural language inference, such as MNLI.",
        )
    return entailed[0], against[0]
