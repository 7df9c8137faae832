"""The page to look at: all that was measured, in one file."""

import json
from typing import Any

from kdcli.report import page
from kdcli.run import Job


def run(job: Job) -> dict[str, Any]:
    """Build `report.html`.

    Returns:
        `characters`: the page's length.
    """
    evaluation = json.loads(job.inputs["evaluate"].read_text(encoding="utf-8"))
    text = page.render(job.recipe, job.results, evaluation, job.seconds)
    job.output.write_text(text, encoding="utf-8")
    return {"characters": len(text)}
