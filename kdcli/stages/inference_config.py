"""Stage `settings`: write the student's `kd.json`."""

import json
from typing import Any

from kdcli.pipeline.stage import Stage, StageContext


class InferenceConfigStage(Stage):
    """Write how to read the student's outputs: temperature, thresholds and truncation."""

    name = "settings"
    description = "note temperature and threshold"
    artifact = "student/kd.json"
    needs = ("distill", "evaluate")
    recipe_parts = ("data",)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write `kd.json` with the values that `evaluate` chose on validation.

        Returns:
            `temperature`: divisor of the student's logits.
        """
        from kdcli.evaluation.calibration import inference_config

        models = {model["name"]: model for model in context.stage_results["evaluate"]["models"]}
        calibration = inference_config.parse_calibration(models["student"]["settings"])
        config = context.artifacts["distill"] / "tokenizer_config.json"
        max_length = context.recipe.data.max_length
        if config.is_file():
            max_length = json.loads(config.read_text(encoding="utf-8")).get("model_max_length")
        truncation = inference_config.InputTruncation(max_length, context.recipe.data.truncation)
        text = inference_config.format_inference_config(calibration, truncation)
        context.output.write_text(text, encoding="utf-8")
        return {"temperature": calibration.temperature}
