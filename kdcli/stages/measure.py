"""Measuring models outside a pipeline: any folders, side by side, on any texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcli.errors import UsageError
from kdcli.evaluation.compare import TEACHER, compare
from kdcli.models import source
from kdcli.progress import Reporter
from kdcli.recipe.load import Override, from_flags, load
from kdcli.recipe.schema import MeasureSpec
from kdcli.run import RECIPE
from kdcli.stages import texts


def measure(models: Sequence[str], flags: Sequence[Override], reporter: Reporter) -> dict[str, Any]:
    """Measure models on the same texts.

    Args:
        models: Run folders, which stand for their teacher and student, or single models.
        flags: What the user said of data and evaluation, in a recipe's keys; where no data is
            named, it is that of the run that a model belongs to.
        reporter: Told of every batch.

    Returns:
        As `kdcli.evaluation.compare.compare`.

    Raises:
        KdError: A model or the data is missing or unusable.
    """
    of_run = not any(flag[0].startswith("data.dataset") for flag in flags)
    spec = _spec(models, flags, of_run)
    folders = _folders(models)
    reporter.start("evaluate", f"measure {', '.join(folders)}")
    # Where validation is set aside from train, it has to be the same part as in the run.
    corpus = texts.load(spec, reporter, to_train=of_run)
    chosen = spec.evaluate
    if not set(chosen.splits) & set(corpus.splits) and "splits" not in chosen.model_fields_set:
        chosen = chosen.model_copy(update={"splits": tuple(corpus.splits)})
    return compare(folders, corpus, chosen, spec.data.max_length, reporter)


def _spec(models: Sequence[str], flags: Sequence[Override], of_run: bool) -> MeasureSpec:
    base: dict[str, Any] = {"data": {}, "evaluate": {}}
    if of_run:
        recipes = [r for m in models for r in (Path(m) / RECIPE, Path(m).parent / RECIPE)]
        found = next((recipe for recipe in recipes if recipe.is_file()), None)
        if found is None:
            raise UsageError(
                f"{models[0]} belongs to no run: which texts is it to be measured on?",
                "Name them: --data DATASET.",
            )
        whole = load(str(found)).model_dump(mode="json")
        base = {key: whole[key] for key in ("seed", "data", "evaluate")}
    return from_flags(MeasureSpec, flags, base)


def _folders(models: Sequence[str]) -> dict[str, Path]:
    """The models to measure by the names to call them: short ones, where that tells them apart."""
    folders: dict[str, Path] = {}
    for model in models:
        path = Path(model)
        short = path.name if path.is_dir() else model
        if (path / RECIPE).is_file() and not (path / "config.json").is_file():
            names = [short, model] if len(models) > 1 else [""]
            prefix = next((n for n in names if f"{n}/student" not in folders), model)
            for part in (TEACHER, "student"):
                folders[f"{prefix}/{part}".lstrip("/")] = source.locate(str(path / part))
        else:
            folders[model if short in folders else short] = source.locate(model)
    return folders
