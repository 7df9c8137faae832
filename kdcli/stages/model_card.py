"""The student's model card."""

import json
from typing import Any

from kdcli.pipeline.run_folder import StageContext
from kdcli.report import card_notes, model_card


def write_model_card(context: StageContext) -> dict[str, Any]:
    """Build the student's `README.md`.

    Returns:
        `characters`: the card's length.
    """
    # By itself, and not by transformers: to write a card again takes no PyTorch.
    config = json.loads((context.artifacts["distill"] / "config.json").read_text(encoding="utf-8"))
    names = {int(place): name for place, name in config["id2label"].items()}
    labels = tuple(names[place] for place in sorted(names))
    text = model_card.render_model_card(
        context.recipe, context.stage_results, labels, config["model_type"], context.stage_seconds
    )
    context.output.write_text(
        card_notes.insert_card_notes(text, context.notes_file), encoding="utf-8"
    )
    return {"characters": len(text)}
