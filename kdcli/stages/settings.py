"""The student's temperature and threshold, where the commands that use it find them."""

from typing import Any

from kdcli.evaluation import operating
from kdcli.run import Job


def run(job: Job) -> dict[str, Any]:
    """Build the student's `kd.json` from what `evaluate` chose on validation.

    Returns:
        `temperature`: what the student's logits are to be divided by.
    """
    models = {model["name"]: model for model in job.results["evaluate"]["models"]}
    chosen = operating.settings(models["student"]["settings"])
    job.output.write_text(operating.write(chosen), encoding="utf-8")
    return {"temperature": chosen.temperature}
