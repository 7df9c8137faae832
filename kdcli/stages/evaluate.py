"""Teacher and student, measured on the same texts."""

import json
from typing import Any

from kdcli.evaluation.compare import TEACHER, compare
from kdcli.run import Job
from kdcli.stages import texts


def run(job: Job) -> dict[str, Any]:
    """Build `evaluation.json`.

    Returns:
        What the file holds: see `kdcli.evaluation.compare.compare`.
    """
    recipe = job.recipe
    corpus = texts.load(recipe, job.reporter)
    folders = {TEACHER: job.inputs["teacher"], "student": job.inputs["distill"]}
    found = compare(folders, corpus, recipe.evaluate, recipe.data.max_length, job.reporter)
    for model in found["models"]:
        # Paths of this machine mean nothing elsewhere.
        model["path"] = folders[model["name"]].name
    job.output.write_text(json.dumps(found, indent=2) + "\n")
    return found
