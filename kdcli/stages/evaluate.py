"""Teacher and student (and what they are compared with), measured on the same texts."""

from typing import Any

from kdcli.evaluation import examples
from kdcli.evaluation.asking import VALIDATION
from kdcli.evaluation.compare import compare
from kdcli.evaluation.document import BASELINE, STUDENT, TEACHER, short, write
from kdcli.evaluation.splits import measurable
from kdcli.run import Job
from kdcli.stages import texts
from kdcli.teachers import kinds

_PARTS = {
    TEACHER: "teacher",
    STUDENT: "distill",
    "control": "control",
    BASELINE: "baseline",
}


def run(job: Job) -> dict[str, Any]:
    """Build `evaluation.json`.

    Returns:
        What the file holds, without its long tables: see `kdcli.evaluation.document`.
    """
    recipe = job.recipe
    corpus = texts.decided(texts.load(recipe, job.reporter), job)
    folders = {part: job.inputs[stage] for part, stage in _PARTS.items() if stage in job.inputs}
    told = None
    if (box := recipe.black_box) is not None:
        splits = [*dict.fromkeys([*measurable(recipe.evaluate, corpus), VALIDATION])]
        setting = texts.setting(job, corpus, folders.pop(TEACHER))
        told = {TEACHER: kinds.answers(box, setting, splits)}
    measured = compare(
        folders,
        corpus,
        recipe.evaluate,
        recipe.data.max_length,
        job.reporter,
        truncate=recipe.data.truncate,
        told=told,
    )
    found = {**measured.document, "apart": examples.apart(measured, STUDENT, TEACHER)}
    for model in found["models"]:
        # Paths of this machine mean nothing elsewhere.
        model["path"] = folders[model["name"]].name if model["name"] in folders else ""
    job.output.write_text(write(found), encoding="utf-8")
    return short(found)
