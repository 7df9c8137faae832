"""The student's `kd.json`: temperature, threshold, and how it was trained to read texts."""

import json
from typing import Any

from kdcli.evaluation.calibration import inference_config
from kdcli.pipeline.run_folder import StageContext


def write_inference_config(context: StageContext) -> dict[str, Any]:
    """Build the student's `kd.json` from what `evaluate` chose on validation.

    Returns:
        `temperature`: what the student's logits are to be divided by.
    """
    models = {model["name"]: model for model in context.stage_results["evaluate"]["models"]}
    chosen = inference_config.parse_calibration(models["student"]["settings"])
    config = context.artifacts["distill"] / "tokenizer_config.json"
    length = json.loads(config.read_text(encoding="utf-8")).get("model_max_length")
    reading = inference_config.InputTruncation(length, context.recipe.data.truncation)
    context.output.write_text(
        inference_config.format_inference_config(chosen, reading), encoding="utf-8"
    )
    return {"temperature": chosen.temperature}
