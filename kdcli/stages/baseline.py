"""Stage `baseline`: train the student on labels alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdcli.pipeline.stage import StageContext
from kdcli.recipe.schema import Recipe
from kdcli.stages.distill import DistillStage
from kdcli.tasks import Task

if TYPE_CHECKING:
    from kdcli.losses.base import Loss
    from kdcli.pipeline.run_estimate import EstimateInputs


class BaselineStage(DistillStage):
    """Train the same student on labels alone, with the same budget."""

    name = "baseline"
    description = "train the student on labels alone"
    artifact = "baseline"
    needs = ("student", "transfer")
    ignored_keys = ("distill.losses", "data.unlabeled")
    uses_transfer_set = False

    def is_enabled(self, recipe: Recipe) -> bool:
        """Return whether the recipe has `baseline: true`."""
        return recipe.baseline

    def losses(self, context: StageContext, task: Task) -> "Sequence[Loss]":
        """Return the task's loss on labels."""
        from kdcli.losses import label_only_losses

        return label_only_losses(task)

    def estimate(self, workload: "EstimateInputs") -> dict[str, Any]:
        """Estimate the training; it takes as many steps as `distill`."""
        if (family := workload.recipe.student.student_family) is not None and family.trains_itself:
            return {"parameters": workload.student.parameters}
        return workload.training_cost(
            workload.recipe.distill, workload.student, workload.distillation_texts
        )
