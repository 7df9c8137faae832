"""Create untrained students from Python: the function behind `kd init-student`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from kdcli.api.reporting import ProgressCallback, choose_reporter, quiet_libraries
from kdcli.api.runs import Overrides, to_overrides, to_reference
from kdcli.models import model_io
from kdcli.pipeline.student_creation import create_untrained_student
from kdcli.progress import Reporter
from kdcli.recipe.loading import config_from_overrides
from kdcli.recipe.schema import InitStudentCommandConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@overload
def init_student(
    model: str | Path,
    *,
    output: None = None,
    data: Any = None,
    text: str | None = None,
    overrides: Overrides = (),
    fresh: bool = False,
    allow_pickle: bool = False,
    reporter: Reporter | None = None,
    progress: ProgressCallback | None = None,
    **student: Any,
) -> "PreTrainedModel": ...


@overload
def init_student(
    model: str | Path,
    *,
    output: str | Path,
    data: Any = None,
    text: str | None = None,
    overrides: Overrides = (),
    fresh: bool = False,
    allow_pickle: bool = False,
    reporter: Reporter | None = None,
    progress: ProgressCallback | None = None,
    **student: Any,
) -> Path: ...


def init_student(
    model: str | Path,
    *,
    output: str | Path | None = None,
    data: Any = None,
    text: str | None = None,
    overrides: Overrides = (),
    fresh: bool = False,
    allow_pickle: bool = False,
    reporter: Reporter | None = None,
    progress: ProgressCallback | None = None,
    **student: Any,
) -> "PreTrainedModel | Path":
    """Create an untrained student from some of a model's layers: `kd init-student`.

    Args:
        model: Hub id, folder or `package:NAME/PATH` of the model to cut.
        output: Folder to write student and tokenizer to.
        data: Texts to measure layers or vocabulary on, for `strategy="importance"` or `trim_vocab`.
        text: Column of the texts.
        overrides: Further values by dotted key.
        fresh: Replace `output` if it exists.
        allow_pickle: Allow model weights that are stored as a pickle.
        reporter: Receives progress; by default the logger `kdcli`.
        progress: Called as `progress(stage, done, total, metrics)`, if there is no reporter.
        **student: Keys of a recipe's `student`, such as `drop_every=2` or `keep_layers=[0, 3]`.

    Returns:
        The student, a transformers model; with `output`, the path of its folder.

    Raises:
        KdError: The model can't be cut so, or the texts can't be used.
    """
    keys: dict[str, Any] = {f"student.{key}": value for key, value in student.items()}
    keys |= {} if data is None else {"data.dataset": to_reference(data)}
    keys |= {} if text is None else {"data.text": text}
    changes = [*to_overrides(overrides), *to_overrides(keys)]
    config = config_from_overrides(InitStudentCommandConfig, changes)
    with quiet_libraries(), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "student" if output is None else Path(output)
        create_untrained_student(
            str(model),
            config,
            folder,
            choose_reporter(reporter, progress),
            overwrite=fresh,
            allow_pickle=allow_pickle,
        )
        return model_io.load_classifier(folder, allow_new_head=True) if output is None else folder
