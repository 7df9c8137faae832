"""The student's model card."""

from typing import Any

from kdcli.models import source
from kdcli.report import card, notes
from kdcli.run import Job


def run(job: Job) -> dict[str, Any]:
    """Build the student's `README.md`.

    Returns:
        `characters`: the card's length.
    """
    config = source.load_config(job.inputs["distill"])
    labels = source.labels_of(config)
    text = card.render(job.recipe, job.results, labels, config.model_type, job.seconds)
    job.output.write_text(notes.insert(text, job.notes), encoding="utf-8")
    return {"characters": len(text)}
