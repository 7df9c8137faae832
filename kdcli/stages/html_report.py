"""Stage `page`: write the HTML report."""

import json
from typing import Any

from kdcli.pipeline.stage import Stage, StageContext


class HtmlReportStage(Stage):
    """Write a page with all results, in one file."""

    name = "page"
    description = "draw the page"
    artifact = "report.html"
    needs = ("evaluate",)
    recipe_parts = ("name", "card")
    version = 2
    only_reports = True

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write `report.html`.

        Returns:
            `characters`: length of the page.
        """
        from kdcli.report import html_report

        evaluation = json.loads(context.artifacts["evaluate"].read_text(encoding="utf-8"))
        text = html_report.render_html_report(
            context.recipe, context.stage_results, evaluation, context.stage_seconds
        )
        context.output.write_text(text, encoding="utf-8")
        return {"characters": len(text)}
