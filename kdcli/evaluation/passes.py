"""Running classifiers over texts: one pass a model and split, and all figures come from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kdcli.data.encode import by_text, encode, read, sample_columns, token_rows
from kdcli.data.labels import explain_match
from kdcli.data.source import Corpus
from kdcli.errors import ModelError
from kdcli.evaluation import operating
from kdcli.evaluation.states import States
from kdcli.models import source
from kdcli.models.forward import logits
from kdcli.models.padding import align_padding, collator_for, padding_note
from kdcli.models.positions import length_limit
from kdcli.progress import Reporter, Tally
from kdcli.recipe.data import Keep
from kdcli.tasks import REGRESSION, Task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SHOWN = 8


@dataclass(frozen=True)
class Outputs:
    """What a model says of a split.

    Attributes:
        logits: float32, (texts, labels), in the order of `Field.labels`.
        states: float32, (texts, width): what its last layer reads; None where it isn't asked for,
            or the model has no linear last layer.
    """

    logits: np.ndarray
    states: np.ndarray | None


@dataclass(frozen=True)
class Subject:
    """A classifier that is measured.

    Attributes:
        labels: The names of its outputs, in order, the data's where it has none of its own.
        limit: How many tokens of a text it sees.
        keep: Which, of a longer one; see `kdcli.data.encode.read`.
    """

    name: str
    folder: Path
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    labels: tuple[str, ...]
    limit: int
    keep: Keep | None = None

    def inputs(self, texts: Sequence[tuple[str, ...]]) -> dict[str, torch.Tensor]:
        """A padded batch of texts (or pairs), or of their windows."""
        columns = [*zip(*texts, strict=True)]
        encoding = read(self.tokenizer, columns, self.limit, self.keep)
        return collator_for(self.model, self.tokenizer)(token_rows(encoding))

    def classify(self, texts: Sequence[tuple[str, ...]]) -> list[int]:
        """The places of the highest outputs, of each text or window."""
        batch = self.inputs(texts)
        with torch.inference_mode():
            return self.model(**batch).logits.argmax(-1).tolist()


@dataclass(frozen=True)
class Field:
    """The classifiers that stand side by side, and the labels that they all give.

    Attributes:
        subjects: By name.
        labels: Those of the data that the models know, in its order, then the models' others.
        from_data: For each of the data's label ids, the place in `labels`, or -1.
        corpus: The data.
        told: What others say that can't be run here: by name and split their logits, (texts,
            labels) in the order of the data's labels, all of which the classifiers know.
    """

    subjects: Mapping[str, Subject]
    labels: tuple[str, ...]
    from_data: np.ndarray
    corpus: Corpus
    told: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def names(self) -> list[str]:
        """All that stand side by side."""
        return [*self.told, *self.subjects]

    @property
    def task(self) -> Task:
        """What the labels are."""
        return self.corpus.task

    def references(self, split: "Dataset") -> np.ndarray:
        """The split's labels as `task.decide` gives the models', by places in `labels`."""
        return self.corpus.truth(split, self.from_data.tolist(), len(self.labels))

    def said(self, name: str, split: str) -> Outputs:
        """What one of `told` says of a split."""
        order = [self.corpus.labels.index(label) for label in self.labels]
        return Outputs(self.told[name][split][:, order], None)

    def run(
        self, name: str, split: "Dataset", batch_size: int, advance: Tally, *, states: bool
    ) -> Outputs:
        """Run a classifier over a split.

        Raises:
            ModelError: What comes out is no number.
        """
        it = self.subjects[name]
        encoded = encode(split, it.tokenizer, it.limit, it.keep)
        collate = collator_for(it.model, it.tokenizer)
        if states:
            with States(it.model, len(encoded)) as watch:
                found = logits(it.model, collate, encoded, batch_size, advance, after=watch)
        else:
            found = logits(it.model, collate, encoded, batch_size, advance)
        if not np.isfinite(found).all():
            raise ModelError(f"{name} answers with what is no number: its weights are damaged.")
        order = [it.labels.index(label) for label in self.labels]
        seen = watch.found if states else None
        return Outputs(
            by_text(found[:, order], encoded), None if seen is None else by_text(seen, encoded)
        )


def load(
    folders: Mapping[str, Path],
    corpus: Corpus,
    splits: Sequence[str],
    max_length: int | None,
    reporter: Reporter,
    *,
    truncate: Keep | None = None,
    told: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Field:
    """Load classifiers that are to be measured on the same texts.

    Args:
        folders: Models by name.
        corpus: The texts.
        splits: Those of them that will be used.
        max_length: Tokens to keep of a text, where less than the models take.
        reporter: Told of labels that are matched by their order.
        truncate: Which tokens to keep of a longer text.
        told: See `Field`.

    Raises:
        ModelError: A model's labels aren't those of the data, or of the other models.
    """
    present = sorted({label for split in splits for label in corpus.present(split)})
    subjects: dict[str, Subject] = {}
    for name, folder in folders.items():
        model, tokenizer = source.load_classifier(folder), source.load_tokenizer(folder)
        source.refuse_other_task(model.config, corpus.task, name)
        names = _named(name, source.labels_of(model.config), corpus, present, reporter)
        reading = operating.reading(folder)
        keep = truncate or reading.truncate
        limit = length_limit(model, tokenizer, max_length or reading.max_length)
        texts = sample_columns(corpus.splits[splits[0]])
        align_padding(model, tokenizer, name, texts, limit=limit, keep=keep)
        if note := padding_note(model, name):
            reporter.say(note)
        subjects[name] = Subject(name, folder, model, tokenizer, names, limit, keep)
    first, *others = subjects.values()
    for other in others:
        _refuse_difference(first, other)
    known = [label for label in corpus.labels if label in first.labels]
    labels = (*known, *(label for label in first.labels if label not in known))
    from_data = [labels.index(label) if label in known else -1 for label in corpus.labels]
    return Field(subjects, labels, np.array(from_data), corpus, told or {})


def _named(
    name: str, own: Sequence[str], corpus: Corpus, present: Sequence[str], reporter: Reporter
) -> tuple[str, ...]:
    if len(own) < 2 and corpus.task is not REGRESSION:
        raise ModelError(f"{name} has one output only: it is no classifier.")
    try:
        ids = corpus.match(own, present)
    except ModelError as error:
        raise ModelError(f"{name}: {error.message}", error.hint) from error
    if why := explain_match(corpus.labels, own):
        reporter.say(f"{name}: its {why}.")
    by_place = {place: corpus.labels[i] for i, place in enumerate(ids) if place >= 0}
    return tuple(by_place.get(place, label) for place, label in enumerate(own))


def _refuse_difference(one: Subject, other: Subject) -> None:
    alone = [sorted({*a.labels} - {*b.labels}) for a, b in ((one, other), (other, one))]
    if any(alone):
        raise ModelError(
            f"{one.name} and {other.name} have different labels: only {one.name} knows "
            f"{_listed(alone[0])}, only {other.name} {_listed(alone[1])}.",
            "Measure them apart.",
        )


def _listed(names: Sequence[str]) -> str:
    more = f", … ({len(names)})" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) + more) or "nothing more"


def sample(split: "Dataset", texts: int) -> list[tuple[str, ...]]:
    """Texts evenly spread over a split, so that an ordered file gives a fair sample."""
    return list(zip(*sample_columns(split, texts), strict=True))


def texts_of(split: "Dataset") -> list[tuple[str, ...]]:
    """Each row's text, or pair of texts."""
    names = [name for name in ("text", "text_pair") if name in split.column_names]
    return list(zip(*(column(split, name).to_pylist() for name in names), strict=True))


def column(split: "Dataset", name: str) -> Any:
    """A column as Arrow has it: read row by row it takes a hundred times as long."""
    return split.select_columns(name).with_format("arrow")[:][name]
