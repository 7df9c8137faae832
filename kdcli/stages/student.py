"""The student before it learns: cut out of the teacher, or a smaller pretrained model."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import set_seed

from kdcli.errors import UsageError
from kdcli.models import layers, source, surgery
from kdcli.progress import Reporter
from kdcli.recipe.schema import StudentSpec
from kdcli.run import Job

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run(job: Job) -> dict[str, Any]:
    """Build the untrained student's folder.

    Returns:
        `origin`, one sentence on where its weights come from, `layers` (those of the teacher that
        were kept; empty for another model) and `parameters`.
    """
    spec, teacher = job.recipe.student, job.inputs["teacher"]
    if spec.model is None:
        return _cut(source.load_classifier(teacher), teacher, spec, job.output)
    set_seed(job.recipe.seed)
    folder = source.locate(spec.model, spec.revision)
    labels = source.labels_of(source.load_config(teacher))
    student = source.load_classifier(folder, labels, fresh_head=True)
    source.save(student, source.load_tokenizer(folder), job.output)
    return {
        "origin": f"It starts from the pretrained model {spec.model}.",
        "layers": [],
        "parameters": source.count_parameters(student),
    }


def cut_out(
    reference: str, spec: StudentSpec, folder: Path, reporter: Reporter, *, replace: bool
) -> dict[str, Any]:
    """Cut a student out of a model that belongs to no run.

    Args:
        reference: The model: a Hub id, a folder, `package:NAME/PATH`.
        spec: Which layers, which architecture.
        folder: Where the student goes.
        reporter: Told what the user should know.
        replace: Whether `folder` may exist already.

    Returns:
        The same as `run`.

    Raises:
        UsageError: `folder` is a file, or is there already.
        ModelError: The model isn't there, or can't be cut so.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder} is a file, not a folder.")
    if folder.exists() and not replace:
        raise UsageError(f"{folder} exists.", "Name another --output, or replace it: --fresh.")
    origin = source.locate(reference, spec.revision)
    set_seed(0)
    model = source.load_classifier(origin, fresh_head=True)
    if not source.has_head(origin):
        reporter.say(
            f"{reference} has no classification head: the student's is new, and untrained "
            f"({model.config.num_labels} labels)."
        )
    built = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(built, ignore_errors=True)
    try:
        result = _cut(model, origin, spec, built)
        shutil.rmtree(folder, ignore_errors=True)
        built.rename(folder)
    finally:
        shutil.rmtree(built, ignore_errors=True)
    return result


def _cut(
    model: "PreTrainedModel", teacher: Path, spec: StudentSpec, output: Path
) -> dict[str, Any]:
    depth = surgery.depth(model.config)
    kept = layers.choose(spec, depth)
    student = surgery.cut(model, kept, spec.architecture)
    source.save(student, source.load_tokenizer(teacher), output)
    return {
        "origin": describe(kept, depth, student.config.model_type),
        "layers": list(kept),
        "parameters": source.count_parameters(student),
    }


def describe(kept: tuple[int, ...], depth: int, model_type: str) -> str:
    """One sentence on a cut: which layers, and the form that they took."""
    which = ", ".join(map(str, kept))
    form = (
        " in DistilBERT's form, without token-type embeddings and pooler"
        if model_type == "distilbert"
        else ""
    )
    return f"It starts from layers {which} of the teacher's {depth} (counted from 0){form}."
