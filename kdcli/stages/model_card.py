"""Stage `card`: write the student's model card."""

import json
from pathlib import Path
from typing import Any

from kdcli.pipeline.run_folder import NOTES_FILE
from kdcli.pipeline.stage import Stage, StageContext


class ModelCardStage(Stage):
    """Write the model card, with the user's own sections kept."""

    name = "card"
    description = "write the card"
    artifact = "student/README.md"
    needs = ("evaluate",)
    recipe_parts = ("name", "card")
    version = 3
    only_reports = True

    def preserve_user_edits(self, run_folder: Path) -> None:
        """Save the user's sections: the card is replaced together with the student's folder."""
        from kdcli.report import user_card_notes

        user_card_notes.save_card_notes(run_folder / self.artifact, run_folder / NOTES_FILE)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write the student's `README.md`.

        Returns:
            `characters`: length of the card.
        """
        from kdcli.report import model_card, user_card_notes

        # Read as JSON, without transformers: writing a card again has to be quick.
        path = context.artifacts["distill"] / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        names = {int(label_id): name for label_id, name in config["id2label"].items()}
        labels = tuple(names[label_id] for label_id in sorted(names))
        text = model_card.render_model_card(
            context.recipe,
            context.stage_results,
            labels,
            config["model_type"],
            context.stage_seconds,
        )
        text = user_card_notes.insert_card_notes(text, context.notes_file)
        context.output.write_text(text, encoding="utf-8")
        return {"characters": len(text)}
