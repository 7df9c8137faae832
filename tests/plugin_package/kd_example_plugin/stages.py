"""A stage of another package."""

import json
from collections.abc import Mapping
from typing import Any

from kdcli import Stage, StageContext


class BadgeStage(Stage):
    """Write a badge with the student's validation accuracy."""

    name = "badge"
    description = "write the badge"
    artifact = "badge.json"
    needs = ("evaluate",)
    only_reports = True

    def run(self, context: StageContext) -> Mapping[str, Any]:
        """Write `badge.json`, and return the accuracy."""
        evaluation = json.loads(context.artifacts["evaluate"].read_text(encoding="utf-8"))
        student = next(model for model in evaluation["models"] if model["name"] == "student")
        accuracy = student["splits"]["validation"]["accuracy"]
        badge = {"label": "accuracy", "message": f"{accuracy:.1%}"}
        context.output.write_text(json.dumps(badge), encoding="utf-8")
        return {"accuracy": accuracy}
