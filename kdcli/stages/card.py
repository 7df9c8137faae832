"""The student's model card."""

import json
from typing import Any

from kdcli.report import card, notes
from kdcli.run import Job


def run(job: Job) -> dict[str, Any]:
    """Build the student's `README.md`.

    Returns:
        `characters`: the card's length.
    """
    # By itself, and not by transformers: to write a card again takes no PyTorch.
    config = json.loads((job.inputs["distill"] / "config.json").read_text(encoding="utf-8"))
    names = {int(place): name for place, name in config["id2label"].items()}
    labels = tuple(names[place] for place in sorted(names))
    text = card.render(job.recipe, job.results, labels, config["model_type"], job.seconds)
    job.output.write_text(notes.insert(text, job.notes), encoding="utf-8")
    return {"characters": len(text)}
