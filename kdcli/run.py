"""The run folder: what is done, under which key, whole or absent."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kdcli.errors import MachineError, UsageError, first_line
from kdcli.progress import Reporter
from kdcli.recipe.schema import Recipe
from kdcli.safe_files import (
    bring_to_disk,
    is_inside,
    link_or_copy,
    refuse_links,
    sync,
    write_whole,
)

MANIFEST = "run.json"
RECIPE = "recipe.yaml"
SEEDS = "seeds.json"
NOTES = "notes.json"
WORK = ".work"
# Where kd writes by name, and deletes.
_WRITTEN = (RECIPE, MANIFEST, SEEDS, NOTES, WORK, "logs", "student", ".lock", ".holder")


@dataclass(frozen=True)
class Cadence:
    """How often a checkpoint is written: after so many steps, so many seconds, or either."""

    steps: int | None = None
    seconds: float | None = 300.0


@dataclass(frozen=True)
class Job:
    """All that a stage is given.

    Attributes:
        recipe: The validated recipe.
        inputs: The artifacts of the stages before, by stage name.
        results: What those stages told of themselves, by stage name.
        seconds: How long those took that it builds on, by stage name.
        output: Where to put the artifact: a path that doesn't exist yet.
        scratch: A folder that outlives a broken-off attempt at the same work.
        logs: The folder for log files.
        teachers: The run folders of the other teachers, in the recipe's order.
        notes: What a person wrote into the card, see `kdcli.report.notes`; it needn't be there.
        reporter: Whom to tell of progress.
        checkpoint_every: How often training writes a checkpoint.
        allow_pickle: Whether the weights of the recipe's models may be a pickle.
        allow_code: Whether the function that the recipe names may be imported and run.
        allow_endpoints: Where the recipe's texts may be sent to, each HOST or HOST=VARIABLE.
    """

    recipe: Recipe
    inputs: Mapping[str, Path]
    results: Mapping[str, Mapping[str, Any]]
    seconds: Mapping[str, float]
    output: Path
    scratch: Path
    logs: Path
    notes: Path
    reporter: Reporter
    teachers: tuple[Path, ...] = ()
    checkpoint_every: Cadence = Cadence()
    allow_pickle: bool = False
    allow_code: bool = False
    allow_endpoints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """What the manifest knows of a finished stage.

    Attributes:
        key: Hash of all that the stage's outcome depends on.
        spec: The parts of the recipe under the key, to say later what has changed.
        files: SHA-256 and size of the artifact's files, by relative path.
        result: What the stage tells of itself: figures, histories.
        seconds: How long it took.
    """

    key: str
    spec: Mapping[str, Any]
    files: Mapping[str, tuple[str, int]]
    result: Mapping[str, Any]
    seconds: float


@dataclass
class RunFolder:
    """A run's folder on disk, and its manifest."""

    path: Path
    records: dict[str, Record] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder at `path`, which need not exist yet; nothing is written.

        Raises:
            UsageError: The path is a file, or no path for the libraries below, or the manifest
                can't be read, or a link lies where kd writes.
        """
        if "::" in str(path) or not _is_text(str(path)):
            # fsspec, below `datasets`, takes `::` for a chain of file systems.
            raise UsageError(
                f"--output {path} has '::' in it, or bytes that are no UTF-8.",
                "Name another folder.",
            )
        for part in (path, *path.parents):
            if part.exists() and not part.is_dir():
                raise UsageError(f"--output {path}: {part} is a file, not a folder.")
        for place in (path / name for name in _WRITTEN):
            refuse_links(place, *_below(place))
        manifest = path / MANIFEST
        if not manifest.is_file():
            return cls(path)
        try:
            content = json.loads(manifest.read_text(encoding="utf-8"))
            stages = content.pop("stages")
            records = TypeAdapter(dict[str, Record]).validate_python(stages)
            return cls(path, records, content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"{manifest} is damaged: {first_line(error)}", "Delete it to start over."
            ) from error

    def fault(self, stage: str, artifact: str) -> str | None:
        """What is wrong with a finished stage's artifact; None where it is as it was written."""
        folder = self.path / artifact
        for name, (digest, size) in self.records[stage].files.items():
            if name and not is_inside(folder, name):
                return f"{self.path / MANIFEST} names a file that is not in {folder}: {name}"
            file = folder / name if name else folder
            if not file.is_file():
                return f"{file} is missing"
            if file.stat().st_size != size or file_digest(file) != digest:
                return f"{file} was changed"
        return None

    def workdir(self, stage: str, key: str) -> tuple[Path, Path]:
        """Two folders for a stage, on the run folder's own disk.

        Args:
            stage: The stage's name.
            key: What it works on: scratch work of another key is thrown away.

        Returns:
            An empty folder to build in, and one that holds what an earlier attempt left.

        Raises:
            MachineError: The folder can't be written.
        """
        build, scratch = (self.path / WORK / stage / part for part in ("build", key))
        try:
            for left in (self.path / WORK / stage).glob("*"):
                if left != scratch:
                    shutil.rmtree(left)
            build.mkdir(parents=True)
            scratch.mkdir(exist_ok=True)
        except OSError as error:
            raise MachineError(f"{build} can't be written: {error.strerror}.") from error
        return build, scratch

    def take_over(self, stage: str, artifact: str, key: str) -> Record | None:
        """Link or copy what a run beside or around this one has made under the same key.

        Returns:
            Its record, now this run's as well; None where there is none, or it isn't whole.
        """
        around = self.path.parent / MANIFEST
        for manifest in (around, *sorted(self.path.parent.glob(f"*/{MANIFEST}"))):
            if manifest.parent == self.path or not manifest.is_file():
                continue
            try:
                other = RunFolder.open(manifest.parent)
                record = other.records.get(stage)
                if record is None or record.key != key:
                    continue
                build, _ = self.workdir(stage, key)
                copied = build / artifact
                shutil.copytree(other.path / artifact, copied, copy_function=link_or_copy)
            except (UsageError, OSError):
                continue
            # The other run may have been at work on it while it was copied.
            if record.files == inventory(copied):
                self.publish(stage, artifact, copied, record)
                return record
        return None

    def publish(self, stage: str, artifact: str, built: Path, record: Record) -> None:
        """Put a finished artifact in its place by a rename, and enter it in the manifest.

        A folder or file under the artifact's name is thus always whole.
        """
        target = self.path / artifact
        target.parent.mkdir(parents=True, exist_ok=True)
        bring_to_disk(built)
        if target.is_dir() or target.is_symlink():
            target.rename(self.path / WORK / stage / "old")
            built.rename(target)
        else:
            built.replace(target)
        sync(target.parent)
        self.records[stage] = record
        self._write_manifest()
        shutil.rmtree(self.path / WORK / stage)

    def forget(self, stages: Iterable[str]) -> None:
        """Strike stages from the manifest: what they made is about to be made again."""
        for stage in stages:
            self.records.pop(stage, None)
        self._write_manifest()

    def write_text(self, name: str, text: str) -> None:
        """Write a small file in the run's folder, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / name, text)

    def _write_manifest(self) -> None:
        stages = {name: asdict(record) for name, record in self.records.items()}
        self.write_text(MANIFEST, json.dumps({**self.about, "stages": stages}, indent=2) + "\n")


def _below(place: Path) -> Iterator[Path]:
    # Not by rglob: another kd may be at work there, and what vanishes meanwhile is no error.
    for folder, folders, files in os.walk(place):
        yield from (Path(folder, name) for name in (*folders, *files))


def _is_text(name: str) -> bool:
    """Whether a file's name is more than bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def inventory(artifact: Path) -> dict[str, tuple[str, int]]:
    """Digest and size of every file of an artifact, by relative path ('' for a single file)."""
    if artifact.is_file():
        return {"": (file_digest(artifact), artifact.stat().st_size)}
    return {
        str(file.relative_to(artifact)): (file_digest(file), file.stat().st_size)
        for file in sorted(artifact.rglob("*"))
        if file.is_file()
    }


def stage_key(*parts: Any) -> str:
    """A short hash of all that a stage's outcome depends on."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
