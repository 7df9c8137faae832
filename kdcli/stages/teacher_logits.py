"""Stage `outputs`: predict the teacher's logits for every text that the student learns from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdcli.pipeline.stage import RequiredRun, Stage, StageContext
from kdcli.recipe.schema import Recipe
from kdcli.recipe.teacher import ClassifierTeacherConfig

if TYPE_CHECKING:
    from kdcli.pipeline.run_estimate import EstimateInputs


class TeacherLogitsStage(Stage):
    """Predict the teacher's logits, or the average of several teachers'."""

    name = "outputs"
    description = "ask the teacher"
    artifact = "teacher-outputs"
    needs = ("teacher", "transfer")
    recipe_parts = ("data", "teacher")
    ignored_keys = ("data.unlabeled",)
    version = 5
    all_processes = True
    reusable_across_runs = True

    def required_runs(self, recipe: Recipe) -> Sequence[RequiredRun]:
        """Return a run up to this stage for each of the other teachers."""
        others = () if recipe.white_box_teacher is None else recipe.white_box_teacher.ensemble_with
        return [
            RequiredRun(
                f"-teacher{number}",
                recipe.model_copy(update={"teacher": ClassifierTeacherConfig(**dict(other))}),
                self.name,
                f"Teacher {number}, {other.model}:",
            )
            for number, other in enumerate(others, 2)
        ]

    def estimate(self, workload: "EstimateInputs") -> dict[str, Any]:
        """Estimate the forward passes, and the training of further teachers and folds."""
        first = workload.recipe.white_box_teacher
        if first is None:  # nobody knows how long a black box takes to answer
            return {}
        seconds, train = 0.0, workload.split_sizes["train"]
        for teacher, size in zip((first, *first.ensemble_with), workload.all_teachers, strict=True):
            seconds += workload.forward_seconds(workload.texts_for_teacher, size.flops_per_token)
            if teacher.fine_tune is not None:
                # The first teacher is trained by then; each fold is left out once.
                trainings = (teacher is not first) + (teacher.cross_fit_folds or 1) - 1
                cost = workload.training_cost(teacher.fine_tune, size, train)
                seconds += trainings * cost["seconds"]
        return {"seconds": seconds}

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write the logits; see `compute_teacher_logits`."""
        from kdcli.pipeline.teacher_preparation import compute_teacher_logits

        return compute_teacher_logits(context)
