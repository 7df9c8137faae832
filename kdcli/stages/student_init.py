"""Stage `student`: create the untrained student."""

from typing import TYPE_CHECKING, Any

from kdcli.pipeline.stage import Stage, StageContext
from kdcli.recipe.schema import Recipe

if TYPE_CHECKING:
    from kdcli.pipeline.run_estimate import EstimateInputs


class StudentInitStage(Stage):
    """Cut the student out of the teacher, or start from a smaller pretrained model."""

    name = "student"
    description = "cut out the student"
    artifact = "student-init"
    needs = ("teacher",)
    recipe_parts = ("data", "student", "seed")
    ignored_keys = ("data.unlabeled",)
    version = 3

    def extra_cache_key_parts(self, recipe: Recipe) -> dict[str, Any]:
        """Return the student's seed, if some of its weights are drawn at random."""
        if not recipe.student.has_random_weights:
            return {}
        return {"distill": {"seed": recipe.student_seed}}

    def estimate(self, workload: "EstimateInputs") -> dict[str, Any]:
        """Return the student's size."""
        return {"parameters": workload.student.parameters}

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write the untrained student's folder; see `write_initial_student`."""
        from kdcli.pipeline.student_creation import write_initial_student

        return write_initial_student(context)
