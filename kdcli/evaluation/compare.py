"""Several classifiers, side by side, on the same texts."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcli import __version__
from kdcli.data import repeats
from kdcli.data.source import Corpus
from kdcli.evaluation import cost, document, kinds, passes
from kdcli.evaluation.asking import VALIDATION, Question, Said, ask_all
from kdcli.evaluation.figures import Answers, Figures, Truth
from kdcli.evaluation.operating import Settings
from kdcli.evaluation.single_label import at_budgets
from kdcli.evaluation.splits import measurable
from kdcli.evaluation.uncertainty import LEVEL, RESAMPLES, Resamples, interval
from kdcli.progress import Reporter
from kdcli.recipe.data import Keep
from kdcli.recipe.schema import EvaluateSpec
from kdcli.tasks import SINGLE_LABEL


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        document: What `evaluation.json` holds; docs/guides/figures.md describes it.
        corpus: The texts.
        labels: The classes' names, by id.
        answers: By split and model.
    """

    document: dict[str, Any]
    corpus: Corpus
    labels: tuple[str, ...]
    answers: Mapping[str, Mapping[str, Answers]]


def compare(
    folders: Mapping[str, Path],
    corpus: Corpus,
    spec: EvaluateSpec,
    max_length: int | None,
    reporter: Reporter,
    *,
    truncate: Keep | None = None,
    carried: Mapping[str, Settings] | None = None,
    against: str | None = None,
    told: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Comparison:
    """Measure classifiers on the splits that the spec names.

    Each model runs once over each split, and all figures come from its logits.

    Args:
        folders: Models by name.
        corpus: The texts.
        spec: Splits, out-of-scope label and budget, batch size, texts to time.
        max_length: Tokens to keep of a text, where less than the models take.
        reporter: Told of every batch, and of what the user should know of the texts.
        truncate: Which tokens to keep of a longer text.
        carried: Temperature and threshold of the models that bring them; the others' are chosen
            on the validation texts, where there are any.
        against: The model that the others are compared with; see `document.reference`.
        told: What others say that can't be run, and so have no cost; see `passes.Field`.

    Raises:
        DataError: None of the splits is there, or the out-of-scope label is no label.
        ModelError: A model's labels differ from the data's or from another model's.
    """
    splits = measurable(spec, corpus)
    to_tune = VALIDATION in corpus.splits
    kept = _usable(carried or {}, spec.out_of_scope, to_tune)
    names = [*(told or {}), *folders]
    used = [*splits, *([VALIDATION] if to_tune and len(kept) < len(names) else [])]
    field = passes.load(folders, corpus, used, max_length, reporter, truncate=truncate, told=told)
    question = Question(field, corpus, spec, splits, kept)
    said = ask_all(question, reporter)
    references = {name: document.reference(name, names, against) for name in names}
    repeated, measured = {}, {}
    for split in splits:
        _say_where_constant(split, said, question, reporter)
        again, repeated[split] = _repeated(corpus, split)
        measured[split] = _measure(question, split, said, references, again)
    timed = passes.sample(corpus.splits[splits[-1]], spec.latency_texts)
    costs = cost.costs(field.subjects, timed, references)
    found = {
        "kd": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "threads": torch.get_num_threads(),
        "interval": {"level": LEVEL, "resamples": RESAMPLES},
        "task": field.task.name,
        "labels": field.labels,
        "labels_from": "data" if corpus.labelled else document.TEACHER,
        "out_of_scope": None if question.outside is None else spec.out_of_scope,
        "against": against,
        "examples": {split: len(corpus.splits[split]) for split in splits},
        "sources": {split: corpus.sources.get(split, split) for split in splits},
        "repeated": repeated,
        "models": [
            {
                "name": name,
                "path": str(folders.get(name, "")),
                "reference": references[name],
                **costs.get(name, {}),
                "settings": _settings(said[name].settings, name in kept),
                "splits": {split: measured[split][name] for split in splits},
            }
            for name in names
        ],
    }
    answers = {s: {name: said[name].answers[s] for name in names} for s in splits}
    return Comparison(found, corpus, field.labels, answers)


def _settings(chosen: Settings | None, carried: bool) -> dict[str, Any] | None:
    """A model's temperature and threshold, and where they come from."""
    if chosen is None:
        return None
    return {**asdict(chosen), "from": "model" if carried else VALIDATION}


def _usable(
    carried: Mapping[str, Settings], out_of_scope: str | None, to_tune: bool
) -> dict[str, Settings]:
    """What models bring for this out-of-scope label; with another one, their temperature at best.

    Args:
        carried: What they bring.
        out_of_scope: The label, where one is named.
        to_tune: Whether there are texts to choose on instead.
    """
    fitting = {
        name: settings
        for name, settings in carried.items()
        if getattr(settings.operating_point, "label", None) == out_of_scope
    }
    if to_tune:
        return fitting
    return {name: Settings(settings.temperature) for name, settings in carried.items()} | fitting


def _say_where_constant(
    split: str, said: Mapping[str, Said], question: Question, reporter: Reporter
) -> None:
    field = question.field
    truths = len(np.unique(field.references(question.corpus.splits[split]), axis=0))
    what = "label" if field.task is SINGLE_LABEL else "answer"
    for name, one in said.items():
        given = np.unique(one.answers[split].predictions, axis=0)
        if len(given) == 1 and truths > 1:
            (word,) = kinds.of(field.task).in_words(field.labels, given)
            reporter.say(
                f"{name} gives every {split} text the same {what}, {word or 'no label'}, "
                f"where there are {truths}."
            )


def _repeated(corpus: Corpus, split: str) -> tuple[np.ndarray, dict[str, int] | None]:
    """Which texts occur in train too, and how many; None where there is no other train split."""
    if split == "train" or "train" not in corpus.splits:
        return np.zeros(len(corpus.splits[split]), dtype=bool), None
    again, otherwise = repeats.of_train(corpus.splits[split], corpus.splits["train"])
    return again, {"texts": int(again.sum()), "other_label": int(otherwise.sum())}


def _measure(
    question: Question,
    split: str,
    said: Mapping[str, Said],
    references: Mapping[str, str | None],
    again: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """Each model's part of the document on one split."""
    field, kind = question.field, kinds.of(question.field.task)
    gold = field.references(question.corpus.splits[split])
    truth = Truth(gold, field.labels, question.outside, Resamples(len(gold)))
    answers = {name: one.answers[split] for name, one in said.items()}
    found = {
        name: kind.figures(truth, own, answers[other] if (other := references[name]) else None)
        for name, own in answers.items()
    }
    measured = {}
    for name, one in found.items():
        rows: dict[str, Any] = {
            **one.points,
            "intervals": {
                key: bounds
                for key, value in one.points.items()
                if key in one.draws and (bounds := interval(key, value, one.draws[key]))
            },
            **one.details,
            "against": {
                other: _against(kind, truth, (one, answers[name]), (found[other], answers[other]))
                for other in found
                if other != name
            },
        }
        if again.any() and not again.all():
            rows["unrepeated"] = kind.labelled(
                gold[~again], answers[name].predictions[~again], question.outside
            )
        if said[name].points:
            rows["budgets"] = at_budgets(truth, answers[name], said[name].points)
        measured[name] = rows
    return measured


def _against(
    kind: kinds.Kind, truth: Truth, one: tuple[Figures, Answers], other: tuple[Figures, Answers]
) -> dict[str, Any]:
    """A model against another one, in pairs: the same texts, the same draws."""
    (mine, said), (its, others) = one, other
    test = kind.against(truth, said, others)
    differences = {}
    for name in mine.points.keys() & its.points.keys() & mine.draws.keys() & its.draws.keys():
        value = mine.points[name] - its.points[name]
        bounds = interval(name, value, mine.draws[name] - its.draws[name], difference=True)
        if bounds is None:
            continue
        low, high = bounds
        # McNemar's test is of accuracy: of whole texts that are right.
        tested = name in ("accuracy", "subset_accuracy") and test["p"] > 1 - LEVEL
        noise = low <= 0 <= high or tested
        differences[name] = {"value": value, "low": low, "high": high, "noise": noise}
    return {**test, "differences": dict(sorted(differences.items()))}
