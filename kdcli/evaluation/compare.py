"""Several classifiers, side by side, on the same texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kdcli.data.encode import encode, length_limit
from kdcli.data.labels import match_labels
from kdcli.data.source import Corpus
from kdcli.errors import DataError
from kdcli.evaluation import metrics
from kdcli.evaluation.latency import measure
from kdcli.models import source
from kdcli.models.forward import collator_for, logits
from kdcli.progress import Reporter, Tally
from kdcli.recipe.schema import EvaluateSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEACHER = "teacher"


@dataclass(frozen=True)
class _Model:
    name: str
    folder: Path
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    limit: int
    ids: Sequence[int]  # for each of the data's labels, the model's


def compare(
    folders: Mapping[str, Path],
    corpus: Corpus,
    spec: EvaluateSpec,
    max_length: int | None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Measure classifiers on the splits that the spec names.

    Args:
        folders: Models by name; agreement is with the one named `teacher`.
        corpus: The texts.
        spec: Splits, out-of-scope label, batch size, texts to time.
        max_length: Tokens to keep of a text, where less than the models take.
        reporter: Told of every batch.

    Returns:
        What `evaluation.json` holds: `examples` by split; `models`, each with `name`, `path`,
        `parameters`, `megabytes`, `latency_ms` and the figures of each split; `threads`.

    Raises:
        DataError: None of the splits is there, or the out-of-scope label is no label.
        ModelError: A model's labels differ from the data's.
    """
    splits = [name for name in spec.splits if name in corpus.splits]
    if not splits:
        raise DataError(f"The data has no split {' or '.join(spec.splits)} to measure on.")
    scope = _out_of_scope(spec, corpus)
    models = [_load(name, folder, corpus, splits, max_length) for name, folder in folders.items()]
    total = sum(len(corpus.splits[s]) for s in splits) * len(models)
    advance = Tally(reporter, total)
    predictions = {
        split: {m.name: _predict(m, corpus, split, spec.batch_size, advance) for m in models}
        for split in splits
    }
    speed = measure({m.name: _classifier(m) for m in models}, _texts(corpus, splits, spec))
    return {
        "examples": {split: len(corpus.splits[split]) for split in splits},
        "threads": torch.get_num_threads(),
        "models": [
            {
                "name": m.name,
                "path": str(m.folder),
                "parameters": source.count_parameters(m.model),
                "megabytes": source.megabytes(m.folder),
                "latency_ms": {"p50": speed[m.name].p50, "p95": speed[m.name].p95},
                "splits": {
                    split: metrics.figures(
                        predictions[split][m.name],
                        np.asarray(corpus.splits[split]["label"]),
                        None if m.name == TEACHER else predictions[split].get(TEACHER),
                        scope,
                    )
                    for split in splits
                },
            }
            for m in models
        ],
    }


def _load(
    name: str, folder: Path, corpus: Corpus, splits: Sequence[str], max_length: int | None
) -> _Model:
    model = source.load_classifier(folder)
    tokenizer = source.load_tokenizer(folder)
    present = sorted({label for split in splits for label in corpus.present(split)})
    ids = match_labels(corpus.labels, source.labels_of(model.config), present=present)
    return _Model(
        name, folder, model, tokenizer, length_limit(model.config, tokenizer, max_length), ids
    )


def _predict(
    m: _Model, corpus: Corpus, split: str, batch_size: int, advance: Callable[[int, int], None]
) -> np.ndarray:
    """Predictions as the data's label ids; a label that the data doesn't know is -1."""
    encoded = encode(corpus.splits[split], m.tokenizer, m.limit)
    found = logits(m.model, collator_for(m.model, m.tokenizer), encoded, batch_size, advance)
    to_data = np.full(found.shape[1], -1)
    for data_id, model_id in enumerate(m.ids):
        if model_id >= 0:
            to_data[model_id] = data_id
    return to_data[found.argmax(-1)]


def _classifier(m: _Model) -> Callable[[tuple[str, ...]], object]:
    collate = collator_for(m.model, m.tokenizer)

    def classify(texts: tuple[str, ...]) -> object:
        encoding = m.tokenizer(*texts, truncation=True, max_length=m.limit)
        with torch.inference_mode():
            return m.model(**collate([encoding])).logits.argmax(-1).item()

    return classify


def _texts(corpus: Corpus, splits: Sequence[str], spec: EvaluateSpec) -> list[tuple[str, ...]]:
    """Evenly spread over the last split, so that an ordered file gives a fair sample."""
    split = corpus.splits[splits[-1]]
    places = np.linspace(0, len(split) - 1, min(spec.latency_texts, len(split))).round()
    rows = split.select(places.astype(int))
    columns = [rows[name] for name in ("text", "text_pair") if name in rows.column_names]
    return list(zip(*columns, strict=True))


def _out_of_scope(spec: EvaluateSpec, corpus: Corpus) -> int | None:
    if spec.out_of_scope is None:
        return None
    if spec.out_of_scope not in corpus.labels:
        raise DataError(
            f"evaluate.out_of_scope: the data has no label {spec.out_of_scope}.",
            f"Its labels: {', '.join(corpus.labels[:8])}{', …' * (len(corpus.labels) > 8)}.",
        )
    return corpus.labels.index(spec.out_of_scope)
