"""The run folder: its manifest, and artifacts that are complete or absent."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kdcli.errors import ResourceError, UsageError, first_message_line
from kdcli.safe_files import (
    file_digests,
    fsync_path,
    fsync_tree,
    hardlink_or_copy,
    is_inside,
    raise_if_symlink,
    sha256_of_file,
    write_text_atomically,
)

MANIFEST_FILE = "run.json"
RECIPE_FILE = "recipe.yaml"
SEEDS_FILE = "seeds.json"
NOTES_FILE = "notes.json"
WORK_FOLDER = ".work"
# Paths that kd writes to, and deletes.
_KD_PATHS = (
    RECIPE_FILE,
    MANIFEST_FILE,
    SEEDS_FILE,
    NOTES_FILE,
    WORK_FOLDER,
    "logs",
    "student",
    ".lock",
    ".holder",
)


@dataclass(frozen=True)
class CheckpointInterval:
    """Steps or seconds between checkpoints; whichever comes first, if both are set."""

    steps: int | None = None
    seconds: float | None = 300.0


@dataclass(frozen=True)
class StageRecord:
    """Record of a finished stage in the manifest.

    Attributes:
        key: Hash of everything that the outcome depends on.
        spec: Recipe parts under the key, to report later what changed.
        files: SHA-256 and size of the artifact's files, by relative path.
        result: What the stage returned: metrics, history.
        seconds: Duration.
    """

    key: str
    spec: Mapping[str, Any]
    files: Mapping[str, tuple[str, int]]
    result: Mapping[str, Any]
    seconds: float


@dataclass
class RunFolder:
    """A run's folder on disk and its manifest."""

    path: Path
    records: dict[str, StageRecord] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the folder at `path`, which need not exist; nothing is written.

        Raises:
            UsageError: The path is a file, or no path for the libraries below, or the manifest
                can't be read, or a link lies where kd writes.
        """
        if "::" in str(path) or not _is_valid_unicode(str(path)):
            # fsspec, below `datasets`, takes `::` for a chain of file systems.
            raise UsageError(
                f"--output {path} has '::' in it, or bytes that are no UTF-8.",
                "Name another folder.",
            )
        for part in (path, *path.parents):
            if part.exists() and not part.is_dir():
                raise UsageError(f"--output {path}: {part} is a file, not a folder.")
        for place in (path / name for name in _KD_PATHS):
            raise_if_symlink(place, *_walk(place))
        manifest = path / MANIFEST_FILE
        if not manifest.is_file():
            return cls(path)
        try:
            content = json.loads(manifest.read_text(encoding="utf-8"))
            stages = content.pop("stages")
            records = TypeAdapter(dict[str, StageRecord]).validate_python(stages)
            return cls(path, records, content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"{manifest} is damaged: {first_message_line(error)}", "Delete it to start over."
            ) from error

    def artifact_problem(self, stage: str, artifact: str) -> str | None:
        """Describe how a finished stage's artifact was changed; None if it was not."""
        folder = self.path / artifact
        for name, (digest, size) in self.records[stage].files.items():
            if name and not is_inside(folder, name):
                return f"{self.path / MANIFEST_FILE} names a file that is not in {folder}: {name}"
            file = folder / name if name else folder
            if not file.is_file():
                return f"{file} is missing"
            if file.stat().st_size != size or sha256_of_file(file) != digest:
                return f"{file} was changed"
        return None

    def prepare_workdir(self, stage: str, key: str) -> tuple[Path, Path]:
        """Create two folders for a stage, on the run folder's disk.

        Args:
            stage: The stage's name.
            key: The stage's key; scratch work of another key is deleted.

        Returns:
            An empty folder to build in, and one that holds what an earlier attempt left.

        Raises:
            ResourceError: The folder can't be written.
        """
        build, scratch = (self.path / WORK_FOLDER / stage / part for part in ("build", key))
        try:
            for left in (self.path / WORK_FOLDER / stage).glob("*"):
                if left != scratch:
                    shutil.rmtree(left)
            build.mkdir(parents=True)
            scratch.mkdir(exist_ok=True)
        except OSError as error:
            raise ResourceError(f"{build} can't be written: {error.strerror}.") from error
        return build, scratch

    def reuse_from_other_run(self, stage: str, artifact: str, key: str) -> StageRecord | None:
        """Link or copy the artifact of a neighbouring or enclosing run with the same key.

        Returns:
            Its record, now in this run too; None if no run has a complete artifact.
        """
        around = self.path.parent / MANIFEST_FILE
        for manifest in (around, *sorted(self.path.parent.glob(f"*/{MANIFEST_FILE}"))):
            if manifest.parent == self.path or not manifest.is_file():
                continue
            try:
                other = RunFolder.open(manifest.parent)
                record = other.records.get(stage)
                if record is None or record.key != key:
                    continue
                build, _ = self.prepare_workdir(stage, key)
                copied = build / artifact
                shutil.copytree(other.path / artifact, copied, copy_function=hardlink_or_copy)
            except (UsageError, OSError):
                continue
            # The other run may have changed it while it was copied.
            if record.files == file_digests(copied):
                self.publish_artifact(stage, artifact, copied, record)
                return record
        return None

    def publish_artifact(self, stage: str, artifact: str, built: Path, record: StageRecord) -> None:
        """Rename a finished artifact to its path, and record it in the manifest.

        An artifact under its own name is thus always complete.
        """
        target = self.path / artifact
        target.parent.mkdir(parents=True, exist_ok=True)
        fsync_tree(built)
        if target.is_dir() or target.is_symlink():
            target.rename(self.path / WORK_FOLDER / stage / "old")
            built.rename(target)
        else:
            built.replace(target)
        fsync_path(target.parent)
        self.records[stage] = record
        self._write_manifest()
        shutil.rmtree(self.path / WORK_FOLDER / stage)

    def forget_stages(self, stages: Iterable[str]) -> None:
        """Remove stages from the manifest, before they run again."""
        for stage in stages:
            self.records.pop(stage, None)
        self._write_manifest()

    def write_text(self, name: str, text: str) -> None:
        """Write a small file in the run's folder atomically."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text_atomically(self.path / name, text)

    def _write_manifest(self) -> None:
        stages = {name: asdict(record) for name, record in self.records.items()}
        self.write_text(
            MANIFEST_FILE, json.dumps({**self.extra, "stages": stages}, indent=2) + "\n"
        )


def _walk(place: Path) -> Iterator[Path]:
    # rglob fails if another kd deletes a file meanwhile.
    for folder, folders, files in os.walk(place):
        yield from (Path(folder, name) for name in (*folders, *files))


def _is_valid_unicode(name: str) -> bool:
    """Return whether a file name is valid Unicode."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def stage_cache_key(*parts: Any) -> str:
    """Return a short hash of everything that a stage's outcome depends on."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
