"""Answers that were paid for, kept on this disk for every later run."""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from kdcli.errors import ResourceError

_MAX_KEYS_PER_QUERY = 500


def default_cache_file() -> Path:
    """The user's own: a new run, or the same one from its start, pays for no answer again."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "kd" / "answers.sqlite"


class ResponseCache:
    """Answers by their questions' digests; each is on the disk when `put` returns.

    Used by one thread at a time; several processes may share the file.
    """

    def __init__(self, cache_file: Path) -> None:
        self.cache_file = cache_file

    def __enter__(self) -> "ResponseCache":
        with self._database_errors_as_machine_errors():
            self.cache_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(self.cache_file, timeout=60, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answers (question TEXT PRIMARY KEY, answer TEXT)"
            )
            self._db.commit()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.close()

    def get(self, keys: Iterable[str]) -> dict[str, str]:
        """The answers that are there, by question."""
        asked = [*dict.fromkeys(keys)]
        found: dict[str, str] = {}
        with self._database_errors_as_machine_errors():
            for start in range(0, len(asked), _MAX_KEYS_PER_QUERY):
                some = asked[start : start + _MAX_KEYS_PER_QUERY]
                marks = ", ".join("?" * len(some))
                query = f"SELECT question, answer FROM answers WHERE question IN ({marks})"
                found |= dict(self._db.execute(query, some))
        return found

    def put(self, key: str, response: str) -> None:
        """Keep an answer."""
        with self._database_errors_as_machine_errors(), self._db:
            self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, response))

    @contextmanager
    def _database_errors_as_machine_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ResourceError(
                f"{self.cache_file}: answers can't be kept: {error}.",
                "Mend or delete the file, or name another folder: XDG_CACHE_HOME.",
            ) from error
