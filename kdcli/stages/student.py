"""The student before it learns: cut out of the teacher, or a smaller pretrained model."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import set_seed

from kdcli.data.encode import encode, lengths, sample_columns
from kdcli.errors import UsageError
from kdcli.models import ablation, layers, reshape, source, surgery, width
from kdcli.models.forward import logits
from kdcli.models.layers import Layers, Stack
from kdcli.models.padding import adopt_pad_token, align_padding, collator_for
from kdcli.models.positions import length_limit
from kdcli.models.size import size
from kdcli.progress import Reporter
from kdcli.recipe.schema import CutSpec
from kdcli.recipe.student import StudentSpec
from kdcli.run import Job
from kdcli.safe_files import refuse_links
from kdcli.stages import narrowing, texts
from kdcli.stages.narrowing import Narrowing

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAMPLE = 256
_BATCH = 32

Result = dict[str, Any]


def run(job: Job) -> Result:
    """Build the untrained student's folder.

    Returns:
        `origin`, sentences on where its weights come from, of which `besides` are those that don't
        name the pretrained model, if it starts from one; `layers` (those of the teacher that
        were kept; empty for another model) and `parameters`; of a cut also what `cut_out` returns.
    """
    spec, folder = job.recipe.student, job.inputs["teacher"]
    corpus = texts.load(job.recipe, job.reporter)
    rows, limit = corpus.splits["train"], job.recipe.data.max_length
    set_seed(job.recipe.student_seed)
    reference, place = job.recipe.teacher.title, folder
    if spec.model is not None:
        reference = spec.model
        place = source.locate(spec.model, spec.revision, allow_pickle=job.allow_pickle)
    if job.recipe.white_box is None:
        labels, task = corpus.labels, corpus.task.name
    else:
        config = source.load_config(folder)
        labels, task = source.labels_of(config), config.problem_type
    own = spec.model is not None
    prior = corpus.prior(labels) if own else None
    model = source.load_classifier(place, labels, task, fresh_head=own, prior=prior)
    tokenizer = source.load_tokenizer(place)
    texts.align(job.recipe, corpus, model, tokenizer, f"The student {reference}")
    narrower = narrowing.plan(
        spec, model, tokenizer, texts.strings(rows) if spec.reads_texts else ()
    )
    origin = _Teacher(reference, place, model, tokenizer, rows, limit)
    if spec.model is None:
        cut = _plan(origin, spec, narrower, job.reporter.advance)
        return cut.result | _write(origin, cut, job.output)
    student, tokenizer = narrowing.apply(narrower, model, tokenizer, origin.batches, head=False)
    adopt_pad_token(student, tokenizer)
    source.save(student, tokenizer, job.output)
    besides = [*_cut_before(model), *narrowing.describe(narrower)]
    return {
        "origin": " ".join([f"It starts from the pretrained model {spec.model}.", *besides]),
        "besides": besides,
        "layers": [],
        "parameters": source.count_parameters(student),
    }


def _cut_before(model: "PreTrainedModel") -> list[str]:
    """What the configuration of a model tells of the teacher that it was cut out of."""
    match getattr(model.config, "kd", None):
        case {"teacher": str(teacher), "layers": list(kept), "teacher_layers": int(depth)}:
            which = ", ".join(map(str, kept))
            return [f"That was cut out of {teacher}: layers {which} of {depth} (counted from 0)."]
    return []


def cut_out(
    reference: str,
    spec: CutSpec,
    folder: Path,
    reporter: Reporter,
    *,
    replace: bool,
    dry_run: bool = False,
    show: Callable[[Result], None] = lambda plan: None,
    allow_pickle: bool = False,
) -> Result:
    """Cut a student out of a model that belongs to no run.

    Args:
        reference: The model: a Hub id, a folder, `package:NAME/PATH`.
        spec: Which layers, which architecture, how wide; texts to measure on.
        folder: Where the student goes.
        reporter: Told what the user should know.
        replace: Whether `folder` may exist already.
        dry_run: Write nothing.
        show: Given what will be written, before it is.
        allow_pickle: Whether the model's weights may be a pickle.

    Returns:
        `origin`, one sentence on where its weights come from; `layers` (and `decoder_layers`)
        that were kept; what `width.widths` says; `parameters`, `megabytes` and
        `flops_per_token`; `teacher`, the same of the model; `speedup`, by the work that a token
        is; where there are texts, `agreement`, the share of `texts` that the untrained student
        labels as the model does.

    Raises:
        UsageError: `folder` is a file, or is there already, or there are no texts to measure on.
        ModelError: The model isn't there, or can't be cut so.
        DataError: The texts can't be used.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder} is a file, not a folder.")
    if folder.exists() and not replace:
        raise UsageError(f"{folder} exists.", "Name another --output, or replace it: --fresh.")
    built = folder.with_name(f".{folder.name}.new")
    refuse_links(folder, built)
    origin = source.locate(reference, spec.student.revision, allow_pickle=allow_pickle)
    config = source.load_config(origin)
    if source.has_head(origin):
        source.labels_of(config)
    model = reshape.skeleton(config)
    layers.choose(spec.student, layers.stacks(model))
    tokenizer = source.load_tokenizer(origin)
    sample = None if spec.data is None else texts.unlabelled(spec.data, reporter)
    strings = None if sample is None else texts.strings(sample)
    narrower = narrowing.plan(spec.student, model, tokenizer, strings)
    if spec.student.strategy == "measured" or not dry_run:
        set_seed(0)
        model = source.load_classifier(origin, fresh_head=True)
        align_padding(
            model, tokenizer, reference, *([] if sample is None else [sample_columns(sample)]),
            limit=length_limit(model, tokenizer, None),
        )  # fmt: skip
    if not source.has_head(origin):
        reporter.say(
            f"{reference} has no classification head: the student's is new, and untrained "
            f"({model.config.num_labels} labels)."
        )
    teacher = _Teacher(reference, origin, model, tokenizer, sample)
    start, long = time.monotonic(), spec.student.strategy == "measured"
    if long:
        reporter.start("student", "leave out layers on trial")
    cut = _plan(teacher, spec.student, narrower, reporter.advance)
    if long:
        reporter.finish("student", "its layers are chosen", time.monotonic() - start)
    show(cut.result)
    if dry_run:
        return cut.result
    shutil.rmtree(built, ignore_errors=True)
    try:
        result = cut.result | _write(teacher, cut, built)
        shutil.rmtree(folder, ignore_errors=True)
        built.rename(folder)
    finally:
        shutil.rmtree(built, ignore_errors=True)
    return result


@dataclass(frozen=True)
class _Teacher:
    """The model to cut, under the name that the user gave it, and texts for it to read."""

    name: str
    folder: Path
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    texts: "Dataset | None" = None
    max_length: int | None = None

    def sample(self, tokenizer: "PreTrainedTokenizerBase") -> "Dataset":
        """Some of the texts, in a tokenizer's tokens."""
        assert self.texts is not None
        chosen = self.texts.shuffle(seed=0).select(range(min(_SAMPLE, len(self.texts))))
        limit = length_limit(self.model, tokenizer, self.max_length)
        return encode(chosen, tokenizer, limit)

    def batches(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
    ) -> "list[dict[str, Tensor]]":
        """The sample in batches of one length: none is padded."""
        rows = self.sample(tokenizer)
        rows = rows.select_columns([name for name in rows.column_names if name != "label"])
        collate = collator_for(model, tokenizer)
        long = lengths(rows)
        alike = (np.flatnonzero(long == length) for length in np.unique(long))
        return [
            collate(rows.__getitems__(places[start : start + _BATCH].tolist()))
            for places in alike
            for start in range(0, len(places), _BATCH)
        ]


@dataclass(frozen=True)
class _Cut:
    """What is to be cut, and what there is to say of it.

    Attributes:
        narrower: What goes beside layers.
        keep: The layers of each stack.
        architecture: The form that they take.
        provenance: What the student's configuration tells of it.
        result: What the user is told.
    """

    narrower: Narrowing
    keep: tuple[Layers, ...]
    architecture: str
    provenance: Mapping[str, Any]
    result: Result


def shape(
    spec: StudentSpec, model: "PreTrainedModel", narrower: Narrowing, keep: Sequence[Layers]
) -> tuple[str, "PreTrainedModel"]:
    """The form of a student, and the student without its weights.

    Args:
        spec: Of the student.
        model: Its teacher; its weights aren't looked at, and needn't be there.
        narrower: What goes beside layers.
        keep: The layers of each stack.
    """
    whole = all(len(k) == s.depth for k, s in zip(keep, layers.stacks(model), strict=True))
    # What loses no layers is the same classifier still, and no head has to learn anew.
    auto = "same" if spec.narrower and whole else "auto"
    form = surgery.form(model.config, auto if spec.architecture == "auto" else spec.architecture)
    thin = reshape.skeleton(narrower.config)
    return form, reshape.skeleton(surgery.smaller(thin, keep, form))


def _plan(
    teacher: _Teacher,
    spec: StudentSpec,
    narrower: Narrowing,
    advance: Callable[[int, int], None],
) -> _Cut:
    model = teacher.model
    stacks = layers.stacks(model)

    def measured(stack: Stack, count: int) -> Layers:
        batches = teacher.batches(model, teacher.tokenizer)
        return ablation.least_missed(
            model, stack, count, batches, head=source.has_head(teacher.folder), advance=advance
        )

    keep = layers.choose(spec, stacks, measured)
    form, student = shape(spec, model, narrower, keep)
    large, small = size(model), size(student)
    kept = {f"{s.part}_layers" if s.part == "decoder" else "layers": list(k)
            for s, k in zip(stacks, keep, strict=True)}  # fmt: skip
    wide, thin = width.widths(model.config), width.widths(student.config)
    origin = describe(stacks, keep, form, spec.strategy)
    if narrower.fresh:
        origin = (
            f"It starts from nothing: a {student.config.model_type} of {len(keep[0])} layers, "
            f"{thin['hidden']} wide, its weights drawn at random."
        )
    result = {
        "origin": " ".join([origin, *narrowing.describe(narrower)]),
        **kept,
        **thin,
        "parameters": small.parameters,
        "megabytes": 4 * small.parameters / 1e6,
        "flops_per_token": small.flops_per_token,
        "speedup": large.flops_per_token / small.flops_per_token,
        "teacher": {
            "layers": stacks[0].depth,
            **{f"{stack.part}_layers": stack.depth for stack in stacks[1:]},
            **wide,
            "parameters": large.parameters,
            "megabytes": source.megabytes(teacher.folder),
            "flops_per_token": large.flops_per_token,
        },
    }
    provenance = {
        # Paths of this machine mean nothing elsewhere.
        "teacher": Path(teacher.name).name if Path(teacher.name).is_dir() else teacher.name,
        **kept,
        "teacher_layers": stacks[0].depth,
        "strategy": spec.strategy if spec.layers or spec.decoder_layers else "named",
        "form": form,
        **({"weights": "random"} if narrower.fresh else {}),
        **{f"teacher_{name}": wide[name] for name in wide if wide[name] != thin.get(name)},
    }
    return _Cut(narrower, keep, form, provenance, result)


def _write(teacher: _Teacher, cut: _Cut, output: Path) -> Result:
    """Build the student's folder; what its untrained answers are like, where there are texts."""
    head = source.has_head(teacher.folder)
    narrower, tokenizer = narrowing.apply(
        cut.narrower, teacher.model, teacher.tokenizer, teacher.batches, head=head
    )
    student = surgery.cut(narrower, cut.keep, cut.architecture)
    adopt_pad_token(student, tokenizer)
    student.config.kd = dict(cut.provenance)
    source.save(student, tokenizer, output)
    if teacher.texts is None or not head:
        return {}
    readers = ((teacher.model, teacher.tokenizer), (student, tokenizer))
    answers = [
        logits(model, collator_for(model, own), teacher.sample(own), _BATCH).argmax(-1)
        for model, own in readers
    ]
    return {"agreement": float(np.mean(answers[0] == answers[1])), "texts": len(answers[0])}


def describe(
    stacks: Sequence[Stack], keep: Sequence[Layers], form: str, strategy: str = "spaced"
) -> str:
    """One sentence on a cut: which layers, how they were chosen, the form that they took."""
    if stacks[0].shared:
        return (
            f"It goes {len(keep[0])} times through the layer that its teacher goes through "
            f"{stacks[0].depth} times."
        )
    counts = [f"{s.part}'s {s.depth}" if s.part else f"{s.depth}" for s in stacks]
    which = [
        f"{', '.join(map(str, kept))} of {whose} {count}"
        for kept, whose, count in zip(keep, ("the teacher's", "its"), counts, strict=False)
    ]
    how = [""]
    if strategy == "measured":
        how.append("those that it does worst without")
    if form == "distilbert":
        how.append("in DistilBERT's form, without token-type embeddings and pooler")
    return f"It starts from layers {' and '.join(which)} (counted from 0){', '.join(how)}."
