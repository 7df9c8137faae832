"""Stage `transfer`: collect the texts that the teacher alone labels."""

from typing import Any

from kdcli.pipeline.stage import Stage, StageContext
from kdcli.recipe.schema import Recipe


class TransferSetStage(Stage):
    """Collect unlabelled and augmented texts, if the recipe asks for them."""

    name = "transfer"
    description = "gather texts without labels"
    artifact = "transfer-set"
    recipe_parts = ("data", "augment", "seed")
    version = 2

    def is_enabled(self, recipe: Recipe) -> bool:
        """Return whether the recipe has `data.unlabeled` or `augment`."""
        return recipe.has_transfer_set

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write the texts as a saved dataset; see `build_transfer_set`."""
        from kdcli.pipeline.transfer_texts import build_transfer_set

        return build_transfer_set(context)
