"""The student's model card."""

from typing import Any

from kdcli.models import source
from kdcli.report import card
from kdcli.run import Job


def run(job: Job) -> dict[str, Any]:
    """Build the student's `README.md`.

    Returns:
        `characters`: the card's length.
    """
    labels = source.labels_of(source.load_config(job.inputs["distill"]))
    text = card.render(job.recipe, job.results, labels)
    job.output.write_text(text, encoding="utf-8")
    return {"characters": len(text)}
