"""Stage `baselines`: fit classifiers without a teacher to the labels."""

from typing import Any

from kdcli.pipeline.stage import Stage, StageContext
from kdcli.recipe.schema import Recipe


class SimpleBaselinesStage(Stage):
    """Fit TF-IDF and the frozen encoder, each with a logistic regression."""

    name = "baselines"
    description = "fit simple baselines"
    artifact = "baselines"
    recipe_parts = ("data", "teacher", "seed")
    ignored_keys = ("data.unlabeled", "teacher.fine_tune", "teacher.ensemble_with")

    def is_enabled(self, recipe: Recipe) -> bool:
        """Return whether the recipe has labels and names a baseline that applies."""
        return bool(recipe.simple_baselines)

    def extra_cache_key_parts(self, recipe: Recipe) -> dict[str, Any]:
        """Return the baselines, and the splits that they are measured on."""
        return {
            "evaluate": {
                "baselines": [*recipe.simple_baselines],
                "splits": [*recipe.evaluate.splits],
            }
        }

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write the baselines' logits; see `fit_baselines`."""
        from kdcli.pipeline.simple_baselines import fit_baselines

        return fit_baselines(context)
