"""Stage `export`: write the student's ONNX files."""

import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdcli.pipeline.stage import Stage, StageContext
from kdcli.recipe.schema import Recipe

if TYPE_CHECKING:
    from kdcli.pipeline.preflight import ValidatedInputs


class ExportStage(Stage):
    """Export the student, in the first precision that passes the gates on validation."""

    name = "export"
    description = "export the student"
    artifact = "student/onnx"
    needs = ("distill", "outputs")
    recipe_parts = ("data", "evaluate", "export")
    ignored_keys = (
        "data.unlabeled",
        "evaluate.splits",
        "evaluate.batch_size",
        "evaluate.latency_texts",
        "evaluate.baselines",
    )

    def is_enabled(self, recipe: Recipe) -> bool:
        """Return whether the recipe asks for an export."""
        return recipe.export is not None

    def validate(self, recipe: Recipe, inputs: "ValidatedInputs") -> None:
        """Check packages, gates and tokenizer.

        Raises:
            UsageError: A package is missing, or a gate can't be checked on validation.
            ModelError: The tokenizer needs transformers.
        """
        from kdcli.onnx_export import onnx_folder, precision_gates

        assert recipe.export is not None, "the stage is enabled"
        onnx_folder.require_export_packages(recipe.export.format)
        precision_gates.parse_gates(recipe.export, inputs.dataset_splits.task)
        if recipe.student.is_cut_from_teacher:
            onnx_folder.require_fast_tokenizer(inputs.tokenizer, "The teacher")

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write the folder `onnx`.

        Returns:
            The fields of `ExportResult`.
        """
        from kdcli.onnx_export import onnx_folder, precision_gates
        from kdcli.pipeline import run_datasets
        from kdcli.runtime import ONNX_FOLDER
        from kdcli.safe_files import hardlink_or_copy

        recipe, folder = context.recipe, context.scratch / "student"
        assert recipe.export is not None, "the stage is enabled"
        # An artifact is never written to: the files are built beside a copy of the model.
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(
            context.artifacts["distill"],
            folder,
            copy_function=hardlink_or_copy,
            ignore=shutil.ignore_patterns(ONNX_FOLDER, ".*"),
        )
        texts = precision_gates.ExportTexts(
            run_datasets.load_teacher_labeled_dataset(context, with_transfer=False),
            recipe.evaluate,
            recipe.data.max_length,
            recipe.data.truncation,
        )
        result = precision_gates.export_to_onnx(folder, recipe.export, texts, context.reporter)
        onnx_folder.write_requirements(folder / ONNX_FOLDER, recipe.export.format)
        shutil.move(folder / ONNX_FOLDER, context.output)
        return asdict(result)
