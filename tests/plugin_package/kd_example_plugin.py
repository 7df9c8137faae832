"""A loss, a reader and a teacher for kd, offered by entry points (see pyproject.toml)."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdcli.data.readers.base import LocatedRow, RowReader
from kdcli.errors import DataError
from kdcli.losses import Loss
from kdcli.losses.base import ModelOutputs

if TYPE_CHECKING:
    from torch import Tensor


class CosineLogits(Loss):
    """1 minus the cosine between the logits of student and teacher."""

    needs = frozenset({"logits"})

    kind: Literal["cosine_logits"] = "cosine_logits"

    def forward(
        self, student_outputs: ModelOutputs, teacher_outputs: ModelOutputs, labels: "Tensor"
    ) -> "Tensor":
        """Compute the mean over the rows of a batch."""
        from torch.nn.functional import cosine_similarity

        return (1 - cosine_similarity(student_outputs.logits, teacher_outputs.logits)).mean()


class PipeReader(RowReader):
    """Files with the ending `.pipe`: one row per line, `label|text`."""

    suffixes = (".pipe",)

    def iterate_rows(self, path: Path, notes: list[str]) -> Iterator[LocatedRow]:
        """Iterate over the lines of a file."""
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                label, separator, text = line.rstrip("\n").partition("|")
                if not separator:
                    raise DataError(f"{path}:{number}: has no | between label and text.")
                yield f"{path}:{number}", {"text": text, "label": label}
