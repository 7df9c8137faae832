"""The base class of every part of a recipe, and the types of source references."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _validate_not_url(source: str) -> str:
    # kd downloads from the Hub only, and a URL may hold a password that the run would record.
    if "://" in source:
        raise ValueError("is a URL: name a Hub id, a file or a folder")
    return source


def _validate_revision(revision: str) -> str:
    # The Hub's client uses it as a path in its cache; git accepts no such name.
    if ".." in revision or revision.startswith("/"):
        raise ValueError("is not a branch, tag or commit")
    return revision


SourceReference = Annotated[str, AfterValidator(_validate_not_url)]
Revision = Annotated[str, AfterValidator(_validate_revision)]


class FrozenConfig(BaseModel):
    """A part of a recipe: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
