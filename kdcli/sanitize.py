"""Escape untrusted text so that it can be displayed, and redact secrets."""

import re
from collections.abc import Sequence

# Python calls these unprintable, but people write them: spaces, and the joiners that Persian, Indic
# scripts and emoji need.
_ALLOWED_CHARACTERS = "\xa0\u202f\u3000\u200c\u200d"
_CREDENTIALS = re.compile(r"(?<=://)\S*@|\bhf_\w{16,}")


def printable(text: str, keep: str = "") -> str:
    r"""Escape control characters, bidirectional marks and lone surrogates: ESC becomes `\x1b`.

    Newlines are escaped too, so that a name can't start a line of its own.

    Args:
        text: Untrusted text.
        keep: Characters that are not escaped.
    """
    return "".join(
        c if c.isprintable() or c in _ALLOWED_CHARACTERS or c in keep else _escape(c) for c in text
    )


def redact_secrets(text: str) -> str:
    """Remove credentials in URLs and Hub tokens from a text."""
    return _CREDENTIALS.sub("…", text)


def abbreviate_list(items: Sequence[object], max_shown: int = 8) -> str:
    """Join items for a message, the first few of many: `a, b, c and 12 more`."""
    shown = ", ".join(map(str, items[:max_shown]))
    rest = len(items) - max_shown
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def count_noun(count: int, noun: str) -> str:
    """Write a number with its noun: `1 text`, `2,000 texts`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
