"""Recipes for one's own data: `kd distill texts.csv`."""

from kdcli import distributed, path_resolution
from kdcli.api.recipe_generator import DEFAULT_TEACHER, RecipeRequest, recipe_for_data
from kdcli.data.readers.registry import file_format
from kdcli.errors import UsageError
from kdcli.pipeline.run_folder import RECIPE_FILE
from kdcli.progress import Reporter
from kdcli.recipe.recipe_lookup import find_recipe_file, is_recipe_not_model


def find_or_write_recipe(
    reference: str,
    reporter: Reporter,
    *,
    data: str | None = None,
    teacher: str | None = None,
    text: tuple[str, ...] = (),
    label: str | None = None,
) -> str:
    """Return the recipe that is named, or write one for the data that is named.

    Args:
        reference: A recipe, a file or folder of data, or with `data` a model.
        reporter: Told what was guessed.
        data: Texts for a model.
        teacher: The model to take as the teacher for data. Default: BERT-base.
        text: The text column, or the two of pairs; empty: guessed.
        label: The label column. Default: guessed.

    Returns:
        Path or name of the recipe.

    Raises:
        UsageError: The arguments don't fit together.
        KdError: The data or the model can't be used.
    """
    local = path_resolution.expand_local_path(reference)
    if data is None and (local / "config.json").is_file():
        raise UsageError(
            f"{reference} is a model, not a recipe.",
            f"Name texts for it: kd distill {reference} --data TEXTS.",
        )
    is_run = (local / RECIPE_FILE).is_file()
    is_data = (local.is_dir() and data is None and not is_run) or path_resolution.is_glob(reference)
    is_recipe = is_recipe_not_model(reference) or (data is None and not is_data)
    if is_recipe and local.is_file() and not is_recipe_not_model(reference):
        is_recipe = file_format(local) is None
    if is_recipe:
        find_recipe_file(reference)
        if flags := [f for f, v in (("--data", data), ("--teacher", teacher), ("--text", text),
                                    ("--label", label)) if v]:  # fmt: skip
            raise UsageError(
                f"{reference} is a recipe, which says {flags[0]} itself.",
                "Override its keys: --set data.dataset=DATA, data.text, data.label, teacher.model.",
            )
        return reference
    if data is not None and teacher is not None:
        raise UsageError(f"{reference} and --teacher {teacher}: name one model.")
    if len(text) > 2:
        raise UsageError("--text: give one column, or two for pairs.")
    if distributed.world_size() > 1:
        raise UsageError("Several processes take a recipe.", "Write it first: kd recipe new DATA.")
    model = teacher or DEFAULT_TEACHER if data is None else reference
    request = RecipeRequest(data or reference, None, text, label, model)
    return str(recipe_for_data(request, reporter))
