"""Interface of plug-ins that build students of other architectures: student families.

A recipe names one by `student.family`: the entry point of the group `kdcli.students`, or
`package.module:Name`. The fields of the class are the keys of `student.options`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdcli import plugins
from kdcli.errors import RecipeError
from kdcli.recipe.base import FrozenConfig
from kdcli.sanitize import abbreviate_list

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PLUGIN_GROUP = "kdcli.students"


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
    """

    teacher: "PreTrainedModel | None"
    tokenizer: "PreTrainedTokenizerBase | None"
    texts: Sequence[str]
    label_names: tuple[str, ...]
    problem_type: str | None
    allow_pickle: bool = False


class StudentFamilyPlugin(FrozenConfig):
    """A plug-in that builds untrained students; a subclass declares its options as fields."""

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


def find_student_family_plugin(name: str) -> type[StudentFamilyPlugin]:
    """Find the plug-in class of a family by name or by reference `package.module:Name`.

    Raises:
        RecipeError: No installed package offers the name.
        UsageError: A reference without `--allow-code`.
        UserError: The import fails, or the object is no `StudentFamilyPlugin`.
    """
    family: type[StudentFamilyPlugin] | None = plugins.find_class(
        _PLUGIN_GROUP, name, StudentFamilyPlugin
    )
    if family is None:
        offered = plugins.plugin_names(_PLUGIN_GROUP)
        raise RecipeError(
            f"student.family: no installed package offers {name!r}.",
            f"Those offered: {abbreviate_list(offered)}." if offered else
            "Install the package, or name a class: package.module:Name.",
        )  # fmt: skip
    return family
