"""Text of unknown origin as Markdown that shows it unchanged."""

import re
from typing import Any

from kdcli.sanitize import printable

# What Markdown, or a reader of it that makes links of addresses, would take for more than text.
_MARKDOWN_SPECIAL_CHARS = re.compile(
    r"[\\`*{}\[\]<>#|~&$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|\.(?=[^\W\d])"
)


class RawMarkdown(str):
    """Text that is Markdown already."""


def escape_markdown(text: str) -> RawMarkdown:
    """Markdown that reads as the text itself, on one line."""
    return RawMarkdown(_MARKDOWN_SPECIAL_CHARS.sub(r"\\\g<0>", printable(text)))


def markdown_code_span(text: str) -> RawMarkdown:
    """Markdown that reads as the text itself in a code span, on one line."""
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
    """A block of code that nothing in it can end, as a fence can be ended by what it holds."""
    return RawMarkdown("".join(f"    {printable(line)}\n" for line in text.splitlines()))
