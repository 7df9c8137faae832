"""Asking a classifier about all the texts that its figures need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from kdcli.data.source import Corpus
from kdcli.evaluation import kinds
from kdcli.evaluation.figures import Answers
from kdcli.evaluation.operating import OperatingPoint, Settings
from kdcli.evaluation.passes import Field, Outputs
from kdcli.evaluation.scope import Mahalanobis
from kdcli.progress import Reporter, Tally
from kdcli.recipe.schema import EvaluateSpec

if TYPE_CHECKING:
    from datasets import Dataset

_TRAIN, VALIDATION = "train", "validation"
_A_CLASS = 20  # training texts of each label that the Mahalanobis distance is fitted on


@dataclass(frozen=True)
class Question:
    """What is asked of each classifier.

    Attributes:
        field: The classifiers.
        corpus: The texts.
        spec: How to measure.
        splits: What to measure on.
        carried: The settings of the classifiers that bring them.
    """

    field: Field
    corpus: Corpus
    spec: EvaluateSpec
    splits: Sequence[str]
    carried: Mapping[str, Settings]

    @cached_property
    def outside(self) -> int | None:
        """The out-of-scope label's id, where one is named and the models know it."""
        name = self.spec.out_of_scope
        return self.field.labels.index(name) if name in self.field.labels else None

    @cached_property
    def learnt(self) -> "Dataset | None":
        """Some in-scope training texts of each label, to tell what is unlike all of them."""
        train = self.corpus.splits.get(_TRAIN)
        if train is None or self.outside is None or _TRAIN in self.splits:
            return None
        references = self.field.references(train)
        order = np.argsort(references, kind="stable")
        sorted_ids = references[order]
        place_in_class = np.arange(len(order)) - np.searchsorted(sorted_ids, sorted_ids)
        inside = (sorted_ids >= 0) & (sorted_ids != self.outside)
        few = order[inside & (place_in_class < _A_CLASS)]
        return train.select(np.sort(few)) if len(few) else None

    def to_ask(self, name: str) -> list[str]:
        """The splits that a classifier is run over."""
        tunes = name not in self.carried and VALIDATION in self.corpus.splits
        return list(dict.fromkeys([*self.splits, *([VALIDATION] if tunes else [])]))


@dataclass(frozen=True)
class Said:
    """What a classifier said.

    Attributes:
        answers: By split.
        settings: Its own or chosen on validation; None where there was nothing to choose on.
        points: Its threshold at other budgets, where it was chosen here.
    """

    answers: Mapping[str, Answers]
    settings: Settings | None
    points: Sequence[OperatingPoint] = ()


def ask_all(question: Question, reporter: Reporter) -> dict[str, Said]:
    """Run every classifier, and choose temperature and threshold where it brings none."""
    run = list(question.field.subjects)
    texts = sum(len(question.corpus.splits[s]) for name in run for s in question.to_ask(name))
    advance = Tally(reporter, texts + len(run) * len(question.learnt or ()))
    return {name: _ask(question, name, advance) for name in question.field.names}


def _ask(question: Question, name: str, advance: Tally) -> Said:
    run = partial(
        question.field.run, name, batch_size=question.spec.batch_size, advance=advance,
        states=question.learnt is not None,
    )  # fmt: skip
    told = name in question.field.told
    outputs = {
        split: question.field.said(name, split) if told else run(question.corpus.splits[split])
        for split in question.to_ask(name)
    }
    settings = question.carried.get(name)
    points: Sequence[OperatingPoint] = ()
    if settings is None and VALIDATION in outputs:
        settings, points = _chosen(question, outputs[VALIDATION])
    distance: Mahalanobis | None = None
    if question.learnt is not None and not told:
        states = run(question.learnt).states
        if states is not None:
            distance = Mahalanobis(states, question.field.references(question.learnt))
    answers = {}
    for split in question.splits:
        states = outputs[split].states
        far = {} if distance is None or states is None else {"mahalanobis": distance(states)}
        answers[split] = Answers(outputs[split].logits, settings, far, question.field.task)
    return Said(answers, settings, points)


def _chosen(question: Question, outputs: Outputs) -> tuple[Settings, Sequence[OperatingPoint]]:
    field = question.field
    references = field.references(question.corpus.splits[VALIDATION])
    found = kinds.of(field.task).choose(
        outputs.logits, references, field.labels, question.outside, question.spec
    )
    return found.settings, found.points
