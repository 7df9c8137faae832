"""What the student learns from: the teacher's outputs for every text, or several teachers'."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli import machine, processes
from kdcli.data.encode import TEACHER_LOGITS, encode
from kdcli.data.folds import folds
from kdcli.data.labels import match_labels
from kdcli.data.source import Corpus
from kdcli.evaluation.calibration import fit_temperature
from kdcli.models import source
from kdcli.models.forward import shared_logits
from kdcli.models.padding import collator_for
from kdcli.models.positions import length_limit
from kdcli.progress import Tally
from kdcli.recipe.black_box import BlackBox
from kdcli.recipe.teacher import TeacherSpec
from kdcli.run import Job
from kdcli.safe_files import replacing
from kdcli.stages import texts
from kdcli.stages.teacher import fine_tuned
from kdcli.tasks import Task
from kdcli.teachers import kinds
from kdcli.training import signals

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SPLITS = ("train", "validation", texts.TRANSFER)
_TO_MEASURE = "test"
_BATCH_SIZE = 64


def run(job: Job) -> dict[str, Any]:
    """Build the folder of the outputs on train, validation and transfer set.

    Returns:
        `rows`, how many texts the teacher was asked about; the task's headline (`accuracy`) of
        these outputs on validation, where the data has labels.
    """
    spec = job.recipe.teacher
    corpus = texts.with_transfer(texts.load(job.recipe, job.reporter), job)
    if not isinstance(spec, TeacherSpec):
        return _told(spec, corpus, job)
    model = source.load_classifier(job.inputs["teacher"])
    tokenizer = source.load_tokenizer(job.inputs["teacher"])
    names = source.labels_of(model.config)
    splits = {split: corpus.splits[split] for split in _asked(corpus)}
    _require_room(corpus, len(names), job)
    found = {} if spec.folds is None else {"train": _out_of_fold(job, corpus)}
    asked = {name: split for name, split in splits.items() if name not in found}
    found |= _ask(model, tokenizer, asked, job)
    task = corpus.task
    if spec.calibrated:
        truth = _truth(corpus, names)
        temperature = fit_temperature(found["validation"], truth, task)
        job.reporter.say(f"The teacher's logits are divided by {temperature:.2f}.")
        found = {split: logits / temperature for split, logits in found.items()}
    if job.teachers:
        found = {
            split: _with_others(logits, split, names, task, job) for split, logits in found.items()
        }
    whose = f"Together the {1 + len(job.teachers)} teachers'" if job.teachers else ""
    headline = _headline(corpus, names, found["validation"], whose, job)
    if processes.is_first():
        signals.write(found, job.output)
    return {"rows": sum(map(len, splits.values())), **headline}


def _told(box: BlackBox, corpus: Corpus, job: Job) -> dict[str, Any]:
    """The same of a black box."""
    _require_room(corpus, len(corpus.labels), job)

    def ask() -> dict[str, Any]:
        setting = texts.setting(job, corpus, job.inputs["teacher"])
        found = kinds.answers(box, setting, _asked(corpus))
        signals.write(found, job.output)
        whose = f"The teacher ({box.title}):"
        headline = _headline(corpus, corpus.labels, found["validation"], whose, job)
        return {"rows": sum(map(len, found.values())), **headline}

    return processes.from_first(ask)


def _headline(
    corpus: Corpus, names: Sequence[str], logits: np.ndarray, whose: str, job: Job
) -> dict[str, float]:
    """The task's headline of outputs on validation, told as whose it is; empty without labels."""
    task = corpus.task
    if not corpus.labelled:
        return {}
    found = task.score(task.decide(logits), _truth(corpus, names))
    if whose:
        job.reporter.say(f"{whose} {task.title} on validation is {found:.4f}.")
    return {task.headline: found}


def _truth(corpus: Corpus, names: Sequence[str]) -> np.ndarray:
    places = corpus.match(names, corpus.present("validation"))
    return corpus.truth(corpus.splits["validation"], places, len(names))


def _asked(corpus: Corpus) -> list[str]:
    """What the student learns from; without labels, also what it is measured on."""
    parts = _SPLITS if corpus.labelled else (*_SPLITS, _TO_MEASURE)
    return [split for split in parts if split in corpus.splits]


def _require_room(corpus: Corpus, labels: int, job: Job) -> None:
    needed = 4 * labels * sum(len(corpus.splits[split]) for split in _asked(corpus))
    machine.require_disk(needed, job.output.parent, "what the teacher says of every text")


def _ask(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    splits: dict[str, "Dataset"],
    job: Job,
) -> dict[str, np.ndarray]:
    """The model's logits for every text of each split, (rows, classes)."""
    limit = length_limit(model, tokenizer, job.recipe.data.max_length)
    collate, keep = collator_for(model, tokenizer), job.recipe.data.truncate
    advance = Tally(job.reporter, sum(map(len, splits.values())))
    return {
        name: shared_logits(
            model, collate, encode(split, tokenizer, limit, keep), _BATCH_SIZE, advance
        )
        for name, split in splits.items()
    }


def _out_of_fold(job: Job, corpus: Corpus) -> np.ndarray:
    """Each training text answered by a teacher that was fine-tuned on the other parts."""
    spec, train = job.recipe.white_box, corpus.splits["train"]
    assert spec is not None and spec.folds is not None
    parts = folds(train, corpus.task, spec.folds, job.recipe.seed)
    found = np.empty((len(train), len(corpus.labels)), dtype=np.float32)
    for number, (others, part) in enumerate(parts, 1):
        kept = job.scratch / f"fold-{number}.npy"
        if not kept.exists():
            job.reporter.say(f"Part {number} of {spec.folds} is left out of fine-tuning.")
            alone = replace(job, scratch=job.scratch / f"fold-{number}")
            # Nothing of the part is left, neither windows nor labels.
            rest = replace(corpus, splits={**corpus.splits, "train": train.select(others)})
            model, tokenizer, _ = fine_tuned(alone, f"teacher-fold-{number}", rest)
            logits = _ask(model, tokenizer, {"part": train.select(part)}, job)["part"]
            if processes.is_first():
                with replacing(kept) as file:
                    np.save(file, logits)
            processes.wait_for_all()
        found[part] = np.load(kept)
    return found


def _with_others(
    logits: np.ndarray, split: str, names: tuple[str, ...], task: Task, job: Job
) -> np.ndarray:
    """The mean of what all teachers say, as logits in this teacher's order of classes."""
    spec = job.recipe.white_box
    assert spec is not None
    every, weights = [logits], [spec.weight]
    for folder, other in zip(job.teachers, spec.also, strict=True):
        theirs = source.labels_of(source.load_config(folder / "teacher"))
        told = np.asarray(signals.read(folder / "teacher-outputs")[split][TEACHER_LOGITS])
        every.append(told[:, match_labels(names, theirs)])
        weights.append(other.weight)
    return signals.averaged(every, weights, task)
