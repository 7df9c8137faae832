"""The student learns from the teacher's outputs and the data's labels."""

from typing import Any

from kdcli.models import source
from kdcli.run import Job
from kdcli.stages import texts
from kdcli.stages.fitting import fit
from kdcli.training import losses, signals, trainer


def run(job: Job) -> dict[str, Any]:
    """Build the trained student's folder.

    Returns:
        `history`, a row for each epoch; `parameters`; `versions` of what trained it.
    """
    recipe = job.recipe
    student = source.load_classifier(job.inputs["student"])
    tokenizer = source.load_tokenizer(job.inputs["student"])
    corpus = texts.load(recipe, job.reporter)
    parts = ("train", "validation")
    rows = texts.encoded(recipe, corpus, student, tokenizer, splits=parts, reporter=job.reporter)
    if losses.needs_teacher(recipe.distill.losses):
        outputs = signals.read(job.inputs["outputs"])
        rows = {part: signals.beside(rows[part], outputs[part]) for part in parts}
    history = fit(
        job,
        "distill",
        student,
        tokenizer,
        rows=rows,
        spec=recipe.distill,
        terms=recipe.distill.losses,
    )
    source.save(student, tokenizer, job.output)
    return {
        "history": history,
        "parameters": source.count_parameters(student),
        "versions": trainer.versions(),
    }
