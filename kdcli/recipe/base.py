"""What every part of a recipe is: frozen and strict; and how sources are named."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _validate_not_url(source: str) -> str:
    # Nothing could be fetched from it, and it may hold a password that a run would write down.
    if "://" in source:
        raise ValueError("is a URL: name a Hub id, a file or a folder")
    return source


def _validate_revision(revision: str) -> str:
    # The Hub's client keeps it as a path below its cache; to git it is no name.
    if ".." in revision or revision.startswith("/"):
        raise ValueError("is no branch, tag or commit")
    return revision


SourceReference = Annotated[str, AfterValidator(_validate_not_url)]
Revision = Annotated[str, AfterValidator(_validate_revision)]


class FrozenConfig(BaseModel):
    """A part of a recipe: frozen, and refusing keys that it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
