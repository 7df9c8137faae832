"""The page to look at: all that was measured, in one file."""

import json
from typing import Any

from kdcli.pipeline.run_folder import StageContext
from kdcli.report import html_report


def write_html_report(context: StageContext) -> dict[str, Any]:
    """Build `report.html`.

    Returns:
        `characters`: the page's length.
    """
    evaluation = json.loads(context.artifacts["evaluate"].read_text(encoding="utf-8"))
    text = html_report.render_html_report(
        context.recipe, context.stage_results, evaluation, context.stage_seconds
    )
    context.output.write_text(text, encoding="utf-8")
    return {"characters": len(text)}
