"""Escape untrusted text so that it can be displayed, and redact secrets."""

import re

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


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
