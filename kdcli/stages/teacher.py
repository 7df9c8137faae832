"""Stage `teacher`: fine-tune a backbone, or take a finished classifier."""

from typing import TYPE_CHECKING, Any

from kdcli.pipeline.stage import Stage, StageContext
from kdcli.recipe.schema import Recipe
from kdcli.recipe.teacher import ClassifierTeacherConfig

if TYPE_CHECKING:
    from kdcli.pipeline.preflight import ValidatedInputs
    from kdcli.pipeline.run_estimate import EstimateInputs


class TeacherStage(Stage):
    """Prepare the teacher."""

    name = "teacher"
    description = "make the teacher ready"
    artifact = "teacher"
    recipe_parts = ("data", "teacher", "seed")
    ignored_keys = (
        "teacher.ensemble_with",
        "teacher.temperature_scaling",
        "teacher.cross_fit_folds",
        "teacher.weight",
        "data.unlabeled",
    )
    version = 4
    all_processes = True
    reusable_across_runs = True

    def validate(self, recipe: Recipe, inputs: "ValidatedInputs") -> None:
        """Check that the device trains in the recipe's precision.

        Raises:
            RecipeError: It doesn't.
        """
        from kdcli.models.device import resolve_precision

        teacher = recipe.white_box_teacher
        for each in () if teacher is None else (teacher, *teacher.ensemble_with):
            if each.fine_tune is not None:
                resolve_precision(each.fine_tune.precision)

    def estimate(self, workload: "EstimateInputs") -> dict[str, Any]:
        """Estimate the fine-tuning; a black box has no size."""
        teacher = workload.recipe.white_box_teacher
        if workload.teacher is None or teacher is None:
            return {}
        if teacher.fine_tune is None:
            return {"parameters": workload.teacher.parameters}
        train = workload.split_sizes["train"]
        return workload.training_cost(teacher.fine_tune, workload.teacher, train)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write the teacher's folder.

        Returns:
            `history`, a row for each epoch (empty if nothing was trained); `parameters`, if it is
            a model; `task`.
        """
        from kdcli.models import model_io
        from kdcli.pipeline import run_datasets, stage_training, teacher_preparation
        from kdcli.training.train import train_model

        recipe, teacher = context.recipe, context.recipe.teacher
        corpus = run_datasets.load_recipe_dataset(recipe, context.reporter)
        if not isinstance(teacher, ClassifierTeacherConfig):
            return teacher_preparation.fit_and_save_black_box_teacher(teacher, corpus, context)
        history: list[dict[str, Any]] = []
        if teacher.fine_tune is None:
            folder = model_io.locate_model(
                teacher.model, teacher.revision, allow_pickle=context.options.allow_pickle
            )
            model, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
            teacher_preparation.adopt_dataset_labels(model, corpus, context)
            run_datasets.configure_tokenizer_and_padding(
                recipe, corpus, model, tokenizer, "The teacher"
            )
        else:
            model, tokenizer, arguments = stage_training.prepare_teacher_fine_tuning(
                context, self.name, corpus
            )
            epochs = train_model(model, tokenizer, **arguments)
            history = [epoch.to_row() for epoch in epochs]
        model_io.save_model(model, tokenizer, context.output)
        return {
            "history": history,
            "parameters": model_io.count_parameters(model),
            "task": corpus.task.name,
        }
