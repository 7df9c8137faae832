"""Teacher and student (and what they are compared with), measured on the same texts."""

from typing import Any

from kdcli.evaluation.compare import compare_models
from kdcli.evaluation.evaluation_splits import select_evaluation_splits
from kdcli.evaluation.output import per_example_export
from kdcli.evaluation.output.evaluation_json import (
    BASELINE,
    STUDENT,
    TEACHER,
    drop_long_tables,
    format_evaluation_json,
)
from kdcli.evaluation.predict.calibrated_predictions import VALIDATION
from kdcli.pipeline import run_datasets
from kdcli.pipeline.run_folder import StageContext
from kdcli.teachers import registry

_STAGE_OF_MODEL = {
    TEACHER: "teacher",
    STUDENT: "distill",
    "control": "control",
    BASELINE: "baseline",
}


def evaluate_teacher_and_student(context: StageContext) -> dict[str, Any]:
    """Build `evaluation.json`.

    Returns:
        What the file holds, without its long tables: see `kdcli.evaluation.document`.
    """
    recipe = context.recipe
    corpus = run_datasets.with_pseudo_labels(
        run_datasets.load_recipe_dataset(recipe, context.reporter), context
    )
    folders = {
        part: context.artifacts[stage]
        for part, stage in _STAGE_OF_MODEL.items()
        if stage in context.artifacts
    }
    told = None
    if (box := recipe.black_box_teacher) is not None:
        splits = [*dict.fromkeys([*select_evaluation_splits(recipe.evaluate, corpus), VALIDATION])]
        setting = run_datasets.black_box_context(context, corpus, folders.pop(TEACHER))
        told = {TEACHER: registry.predict_teacher_logits(box, setting, splits)}
    measured = compare_models(
        folders,
        corpus,
        recipe.evaluate,
        recipe.data.max_length,
        context.reporter,
        truncate=recipe.data.truncation,
        precomputed_logits=told,
    )
    found = {
        **measured.evaluation,
        "apart": per_example_export.find_disagreements(measured, STUDENT, TEACHER),
    }
    for model in found["models"]:
        # Paths of this machine mean nothing elsewhere.
        model["path"] = folders[model["name"]].name if model["name"] in folders else ""
    context.output.write_text(format_evaluation_json(found), encoding="utf-8")
    return drop_long_tables(found)
