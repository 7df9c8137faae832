"""A cache of paid responses on disk, shared by all runs."""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from kdcli.errors import ResourceError

_MAX_KEYS_PER_QUERY = 500


def default_cache_file() -> Path:
    """Return the user's cache file, so that no run pays for a response again."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "kd" / "answers.sqlite"


class ResponseCache:
    """Responses by request digest; each is on disk when `put` returns.

    One thread at a time may use it; several processes may share the file.
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
        """Return the cached responses, by request digest."""
        unique = [*dict.fromkeys(keys)]
        found: dict[str, str] = {}
        with self._database_errors_as_machine_errors():
            for start in range(0, len(unique), _MAX_KEYS_PER_QUERY):
                some = unique[start : start + _MAX_KEYS_PER_QUERY]
                marks = ", ".join("?" * len(some))
                query = f"SELECT question, answer FROM answers WHERE question IN ({marks})"
                found |= dict(self._db.execute(query, some))
        return found

    def put(self, key: str, response: str) -> None:
        """Store a response."""
        with self._database_errors_as_machine_errors(), self._db:
            self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, response))

    @contextmanager
    def _database_errors_as_machine_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ResourceError(
                f"{self.cache_file}: responses can't be cached: {error}.",
                "Delete the file, or set XDG_CACHE_HOME to another folder.",
            ) from error
