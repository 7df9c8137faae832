"""Text from outside: names, labels and words of strangers, made fit to be shown."""

import re

# Not "printable" to Python, and all the same what people write: spaces, and the joiners that
# Persian, Indic scripts and emoji need.
_ALLOWED_CHARACTERS = "\xa0\u202f\u3000\u200c\u200d"
_CREDENTIALS = re.compile(r"(?<=://)\S*@|\bhf_\w{16,}")


def printable(text: str, keep: str = "") -> str:
    r"""The text with all that steers a terminal or a reader's eye written out: ESC as `\x1b`.

    That is every control character, lone surrogate and mark that turns the direction of writing;
    ends of lines too, so that a name can't begin a line of its own.

    Args:
        text: From anywhere.
        keep: Characters to leave as they are.
    """
    return "".join(
        c if c.isprintable() or c in _ALLOWED_CHARACTERS or c in keep else _escape(c) for c in text
    )


def redact_secrets(text: str) -> str:
    """The text without what a URL holds before its host, and without Hub tokens."""
    return _CREDENTIALS.sub("…", text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
