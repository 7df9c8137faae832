"""The student's `kd.json`: temperature, threshold, and how it was trained to read texts."""

import json
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
    config = job.inputs["distill"] / "tokenizer_config.json"
    length = json.loads(config.read_text(encoding="utf-8")).get("model_max_length")
    reading = operating.Reading(length, job.recipe.data.truncate)
    job.output.write_text(operating.write(chosen, reading), encoding="utf-8")
    return {"temperature": chosen.temperature}
