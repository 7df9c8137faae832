"""Interface of plug-ins that build students of other architectures: student families.

A recipe names one by `student.family`: the entry point of the group `kdcli.students`, or
`package.module:Name`. The fields of the class are the keys of `student.options`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli import plugins
from kdcli.errors import RecipeError
from kdcli.recipe.base import FrozenConfig
from kdcli.sanitize import abbreviate_list

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kdcli.data.dataset_splits import DatasetSplits
    from kdcli.recipe.schema import Recipe

_PLUGIN_GROUP = "kdcli.students"
# Families that come with kd: module and class. They are imported once a recipe names them.
BUILT_IN_FAMILIES = {"static": ("kdcli.students.static", "StaticFamily")}
# Training hyperparameters that suit a family, where the recipe names none.
FAMILY_TRAINING_DEFAULTS: dict[str, dict[str, Any]] = {
    "static": {"learning_rate": 1e-3, "batch_size": 64, "epochs": 20},
}


@dataclass(frozen=True)
class StudentFamilyContext:
    """Inputs from which a family builds a student.

    Attributes:
        teacher: The fine-tuned teacher; None for a black box. Before the run and in `--dry-run` it
            may lack its weights (meta device).
        tokenizer: A copy of the teacher's tokenizer; None for a black box.
        texts: The training texts.
        label_names: Names of the outputs, in order.
        problem_type: `problem_type` of the configuration, as in transformers.
        allow_pickle: Whether weights that the family loads may be a pickle.
        encoder: Folder of `student.model`, or else of the teacher's model before fine-tuning; None
            for a black box without `student.model`.
    """

    teacher: "PreTrainedModel | None"
    tokenizer: "PreTrainedTokenizerBase | None"
    texts: Sequence[str]
    label_names: tuple[str, ...]
    problem_type: str | None
    allow_pickle: bool = False
    encoder: Path | None = None


class StudentFamilyPlugin(FrozenConfig):
    """A plug-in that builds untrained students; a subclass declares its options as fields."""

    def validate_recipe(self, recipe: "Recipe", dataset_splits: "DatasetSplits") -> None:
        """Check, before any stage runs, that recipe and data go with the family.

        Raises:
            KdError: They don't.
        """

    def build(
        self, context: StudentFamilyContext
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """Build the student and its tokenizer.

        kd has seeded all random numbers with the student's seed, and names the model's outputs
        after the labels.

        Returns:
            A sequence classifier with an output per label, of an architecture that
            `AutoModelForSequenceClassification` loads, and its tokenizer.
        """
        raise NotImplementedError

    def estimate(
        self, context: StudentFamilyContext
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """Build the student without its weights, before the run and for `--dry-run`.

        By default this calls `build` on torch's meta device, which allocates no weights. A family
        that loads weights overrides it.

        Raises:
            KdError: There can be no such student.
        """
        import torch

        with torch.device("meta"):
            return self.build(context)

    def describe(self, model: "PreTrainedModel", name: str) -> str:
        """Describe the student in a sentence for its card.

        Args:
            model: The untrained student.
            name: The family's name in the recipe.
        """
        return f"It is a {model.config.model_type} of the student family {name}."

    def save(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path
    ) -> None:
        """Write the trained student's folder.

        By default it is a `save_pretrained` folder. A family with another format overrides this.
        """
        save: Any = import_module("kdcli.models.model_io").save_model
        save(model, tokenizer, folder)


def find_student_family_plugin(name: str) -> type[StudentFamilyPlugin]:
    """Find the plug-in class of a family by name or by reference `package.module:Name`.

    Raises:
        RecipeError: No installed package offers the name.
        UsageError: A reference without `--allow-code`.
        UserError: The import fails, or the object is no `StudentFamilyPlugin`.
    """
    if name in BUILT_IN_FAMILIES:
        module, class_name = BUILT_IN_FAMILIES[name]
        built_in: type[StudentFamilyPlugin] = getattr(import_module(module), class_name)
        return built_in
    family: type[StudentFamilyPlugin] | None = plugins.find_class(
        _PLUGIN_GROUP, name, StudentFamilyPlugin
    )
    if family is None:
        offered = plugins.plugin_names(_PLUGIN_GROUP)
        raise RecipeError(
            f"student.family: no installed package offers {name!r}.",
            f"Those offered: {abbreviate_list(['transformer', *BUILT_IN_FAMILIES, *offered])}. Or "
            "name a class: package.module:Name.",
        )
    return family
