"""Interface of plug-ins that build students of other architectures: student families.

A recipe names one by `student.family`: the entry point of the group `kdcli.students`, or
`package.module:Name`. The fields of the class are the keys of `student.options`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kdcli import plugins
from kdcli.errors import RecipeError
from kdcli.recipe.base import FrozenConfig
from kdcli.sanitize import abbreviate_list

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kdcli.data.dataset_splits import DatasetSplits
    from kdcli.recipe.data import TruncationMode
    from kdcli.recipe.schema import Recipe
    from kdcli.tasks import Task

_PLUGIN_GROUP = "kdcli.students"
# Families that come with kd: module and class. They are imported once a recipe names them.
BUILT_IN_FAMILIES = {
    "static": ("kdcli.students.static", "StaticFamily"),
    "tfidf": ("kdcli.students.tfidf", "TfidfFamily"),
    "head": ("kdcli.students.head", "HeadFamily"),
}
# Families whose students run without PyTorch as they are.
FAMILIES_WITHOUT_EXPORT = ("static", "tfidf")
# Keys of distill that count for a student that is fitted all at once.
_FITTING_KEYS = {"losses", "seed", "label_smoothing", "focal_gamma", "class_weights"}
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


@dataclass(frozen=True)
class FamilyTrainingData:
    """Inputs from which a family trains its student; see `StudentFamilyPlugin.train`.

    Attributes:
        untrained: The untrained student's folder.
        output: Where the trained student's folder goes; None where another process writes it.
        splits: The texts, `train` and `validation`; unlabelled texts are part of `train`.
        num_outputs: Number of labels.
        training_loss: The sum of the recipe's losses over all texts of `train`, a scalar, of their
            logits, (texts, outputs).
        validation_score: Rates logits of the validation texts, (texts, outputs); more is better.
        history_row: Returns the row of the training's table, of the number of steps and the logits
            of both splits.
        max_length: Tokens to keep of a text. None: as many as the model reads.
        truncation: The tokens to keep of a longer text.
        advance: Called with the work done and all work.
    """

    untrained: Path
    output: Path | None
    splits: "Mapping[str, Dataset]"
    num_outputs: int
    training_loss: "Callable[[Tensor], Tensor]"
    validation_score: "Callable[[np.ndarray], float]"
    history_row: "Callable[[int, Mapping[str, np.ndarray]], dict[str, Any]]"
    max_length: int | None
    truncation: "TruncationMode | None"
    advance: Callable[[int, int], None]


class StudentFamilyPlugin(FrozenConfig):
    """A plug-in that builds untrained students; a subclass declares its options as fields.

    Attributes:
        trains_itself: The family trains its students by `train`; otherwise kd trains them as any
            student.
    """

    trains_itself: ClassVar[bool] = False

    def validate_recipe(self, recipe: "Recipe", dataset_splits: "DatasetSplits") -> None:
        """Check, before any stage runs, that recipe and data go with the family.

        Raises:
            KdError: They don't.
        """

    def build(
        self, context: StudentFamilyContext
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase | None]":
        """Build the student and its tokenizer.

        kd has seeded all random numbers with the student's seed, and names the model's outputs
        after the labels.

        Returns:
            A sequence classifier with an output per label, of an architecture that
            `AutoModelForSequenceClassification` loads, and its tokenizer; None for a family that
            trains itself and reads texts without one.
        """
        raise NotImplementedError

    def estimate(
        self, context: StudentFamilyContext
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase | None]":
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

    def save_untrained(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", folder: Path
    ) -> None:
        """Write the untrained student's folder, by default as `save_pretrained` does."""
        save: Any = import_module("kdcli.models.model_io").save_model
        save(model, tokenizer, folder)

    def train(self, data: FamilyTrainingData) -> dict[str, Any]:
        """Train the student and write its folder, if `trains_itself`.

        Returns:
            `parameters`, their number; `history`, rows of `FamilyTrainingData.history_row`; other
            values of JSON types.
        """
        raise NotImplementedError

    def save(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path
    ) -> None:
        """Write the trained student's folder.

        By default it is a `save_pretrained` folder. A family with another format overrides this.
        """
        save: Any = import_module("kdcli.models.model_io").save_model
        save(model, tokenizer, folder)


def refuse_gradient_keys(recipe: "Recipe", task: "Task", family: str) -> None:
    """Refuse keys of `distill` that mean nothing for a student that is fitted all at once.

    Raises:
        RecipeError: The recipe sets one of them, a loss compares what lies within the models, or a
            value changes as the student trains.
    """
    from kdcli.losses.base import INTERNAL_OUTPUTS, LinearRamp, required_teacher_outputs

    why = f"student.family: {family}, which is fitted to all texts at once"
    for key, field in type(recipe.distill).model_fields.items():
        if key not in _FITTING_KEYS and getattr(recipe.distill, key) != field.default:
            raise RecipeError(f"distill.{key} doesn't go with {why}.", f"Remove distill.{key}.")
    for loss in recipe.distill.losses_for_task(task):
        if required_teacher_outputs([loss]) & INTERNAL_OUTPUTS:
            raise RecipeError(
                f"distill.losses: {loss.kind} compares layers, and {why}, trains none.",
                "Use losses of logits, such as soft_targets.",
            )
        if any(isinstance(value, LinearRamp) for _, value in loss):
            raise RecipeError(
                f"distill.losses: {loss.kind} changes from step to step, which doesn't go with "
                f"{why}.",
                "Give one number.",
            )


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
