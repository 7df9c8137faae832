"""Ablation (stage `control`): train the student without the transfer set."""

from kdcli.recipe.schema import Recipe
from kdcli.stages.distill import DistillStage


class TransferSetAblationStage(DistillStage):
    """Ablation: train the same student on the same teacher's outputs, without the transfer set."""

    name = "control"
    description = "train the student without these texts"
    artifact = "control"
    uses_transfer_set = False

    def is_enabled(self, recipe: Recipe) -> bool:
        """Return whether there are both a transfer set and a baseline."""
        return recipe.has_control_student
