"""Escape text of unknown origin so that Markdown shows it unchanged."""

import re
from typing import Any

from kdcli.sanitize import printable

# Characters that Markdown, or a renderer that turns addresses into links, gives a meaning.
_MARKDOWN_SPECIAL_CHARS = re.compile(
    r"[\\`*{}\[\]<>#|~&$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|\.(?=[^\W\d])"
)


class RawMarkdown(str):
    """Text that is Markdown already and is not escaped again."""


def escape_markdown(text: str) -> RawMarkdown:
    """Escape a text so that it is shown unchanged, on one line."""
    return RawMarkdown(_MARKDOWN_SPECIAL_CHARS.sub(r"\\\g<0>", printable(text)))


def markdown_code_span(text: str) -> RawMarkdown:
    """Format a text as a code span that shows it unchanged, on one line."""
    shown = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    padding = " " * (len(fence) > 1)
    return RawMarkdown(f"{fence}{padding}{shown}{padding}{fence}")


def escape_template_value(value: Any) -> Any:
    """Escape a value that a template inserts, unless it is Markdown already."""
    return (
        escape_markdown(value)
        if isinstance(value, str) and not isinstance(value, RawMarkdown)
        else value
    )


def indented_code_block(text: str) -> RawMarkdown:
    """Format a text as a code block. It has no fence, which the text itself could close."""
    return RawMarkdown("".join(f"    {printable(line)}\n" for line in text.splitlines()))
