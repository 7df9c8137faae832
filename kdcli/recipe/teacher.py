"""The part `teacher`: the model to learn from."""

from pydantic import Field

from kdcli.recipe.base import Revision, Source, Spec
from kdcli.recipe.fit import FitSpec


class TeacherSpec(Spec):
    """The model to learn from."""

    model: Source = Field(
        min_length=1,
        description="A Hub id, a folder, or package:NAME/PATH for weights in a Python package.",
    )
    revision: Revision | None = Field(None, description="The Hub model's revision: pin a commit.")
    fine_tune: FitSpec | None = Field(
        None, description="How to fine-tune it first. Left out: it is a finished classifier."
    )
