"""Work with the folder of a finished run: find it, write its reports again, list its files."""

import shutil
from pathlib import Path

from kdcli.errors import UsageError
from kdcli.pipeline.locks import run_folder_lock
from kdcli.pipeline.planning import plan_stages, recorded_source_cache_keys
from kdcli.pipeline.run_folder import MANIFEST_FILE, RECIPE_FILE, WORK_FOLDER, RunFolder
from kdcli.pipeline.runner import preserve_user_edits, run_stage
from kdcli.progress import Reporter
from kdcli.recipe.loading import load_recipe
from kdcli.recipe.schema import Recipe
from kdcli.safe_files import is_inside
from kdcli.stages import all_stages

STUDENT_FOLDER = "student"


def find_current_run() -> Path:
    """Find the run that the working folder is or lies in, or else the latest run in `runs`.

    Raises:
        UsageError: There is none.
    """
    here = Path.cwd()
    for folder in (here, here.parent):
        if _is_run_with_student(folder):
            return folder
    return find_last_changed_run(Path("runs"))


def _is_run_with_student(folder: Path) -> bool:
    # A sweep's folder is a run of its teacher alone.
    return (folder / MANIFEST_FILE).is_file() and (folder / STUDENT_FOLDER).is_dir()


def find_last_changed_run(folder: Path) -> Path:
    """Find the run below `folder` that was changed last; those with a student come first.

    Raises:
        UsageError: There is none.
    """
    manifests = sorted(
        folder.glob(f"*/{MANIFEST_FILE}"),
        key=lambda path: (_is_run_with_student(path.parent), path.stat().st_mtime),
    )
    if not manifests:
        raise UsageError(
            f"There is no run in {folder}.", "Name one, or start it: kd distill RECIPE."
        )
    return manifests[-1].parent


def load_run_recipe(folder: Path) -> Recipe:
    """Load the recipe of a run.

    Raises:
        UsageError: The folder holds no run, or a link lies where kd writes.
    """
    RunFolder.open(folder)
    if not (folder / RECIPE_FILE).is_file():
        raise UsageError(
            f"{folder} is no run: it has no {RECIPE_FILE}.", "Start one: kd distill RECIPE."
        )
    return load_recipe(str(folder / RECIPE_FILE))


def rewrite_reports(folder: Path, reporter: Reporter) -> Path:
    """Run the reporting stages of a finished run again, on its recorded results.

    Returns:
        The student's folder, with the card in it.

    Raises:
        UsageError: The folder holds no run, or the run is unfinished or was changed.
    """
    recipe = load_run_recipe(folder)
    with run_folder_lock(folder):
        run = RunFolder.open(folder)
        plans = plan_stages(recipe, run, source_keys=recorded_source_cache_keys(run))
        for plan in plans:
            if plan.reason and not plan.stage.only_reports:
                raise UsageError(
                    f"The run {folder} isn't whole: stage {plan.stage.name}: {plan.reason}.",
                    f"Finish it: kd distill {folder / RECIPE_FILE} --output {folder}.",
                )
        preserve_user_edits(run.path)
        for plan in plans:
            if plan.stage.only_reports:
                run_stage(plan, recipe, run, reporter)
        shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
    return folder / STUDENT_FOLDER


def files_to_publish(folder: Path) -> dict[str, Path]:
    """List the files that stages wrote into the student's folder, by path in a repository.

    Other files in that folder stay on this machine.

    Raises:
        UsageError: The folder's manifest can't be read.
    """
    run, student = RunFolder.open(folder), Path(STUDENT_FOLDER)
    files = {}
    for stage in all_stages():
        artifact = Path(stage.artifact)
        if not artifact.is_relative_to(student) or stage.name not in run.records:
            continue
        for name in run.records[stage.name].files:
            hidden = any(part.startswith(".") for part in Path(name).parts)
            if is_inside(folder / artifact, name) and not hidden:
                path = artifact / name
                files[path.relative_to(student).as_posix()] = folder / path
    return files
