"""YAML as data: plain scalars, lists and mappings, each remembering its line.

PyYAML reads YAML 1.1, in which `1e-5` is text, `off` is False, `12:30` is 750 and a repeated key
wins in silence. Here scalars follow the YAML 1.2 core schema, repeated keys and tags are refused,
and depth, aliases and size have limits.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from kdcli.errors import RecipeError

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 20_000

Path = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_HALF = re.compile("[\ud800-\udfff]")  # an escape may stand for half of a UTF-16 pair
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass
class Document:
    """A parsed document: its value, and where in the text each key or item stands.

    Attributes:
        value: Scalars, lists and mappings.
        lines: The line of each key or item.
        spans: Where the value of each begins and ends, in characters.
    """

    value: Any
    lines: dict[Path, int] = field(default_factory=dict)
    spans: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of `path`, or of the nearest part of it that is written down."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse(text: str, name: str) -> Document:
    """Parse one YAML document.

    Args:
        text: The document.
        name: What to call it in an error: a file's path, mostly.

    Raises:
        RecipeError: It isn't YAML, repeats a key, carries a tag, or is beyond the limits.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(f"{name}: is larger than {MAX_BYTES:,} characters; no recipe is.")
    try:
        _check_events(text, name)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        hint = "YAML is indented with spaces." if "\\t" in str(error.problem) else ""
        raise RecipeError(f"{name}:{line}: is not YAML: {error.problem}.", hint) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character U+{error.character:04X}"
        raise RecipeError(f"{name}:{line}: is not YAML: it holds {what}.", "Delete it.") from error
    document = Document(None)
    if node is not None:
        document.value = _Builder(name, document).build(node, ())
    return document


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) scalar under the YAML 1.2 core schema."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text) if len(text) < 100 else text
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def write(value: Any) -> str:
    """YAML that `parse` reads as the same value."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True)


def _check_events(text: str, name: str) -> None:
    # Composing recurses and takes its time, and this doesn't: depth and number have to be known
    # before. It also gives every value a tag, and here only those have one that are written down.
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        where = f"{name}:{event.start_mark.line + 1 if event.start_mark else 1}"
        if tag := getattr(event, "tag", None):
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise RecipeError(
                f"{where}: has the tag {shown}, and a recipe has none.",
                "Delete it; quotes make text of anything.",
            )
        if isinstance(event, yaml.ScalarEvent) and _HALF.search(event.value):
            raise RecipeError(f"{where}: holds half a character.", "Delete the escape \\ud….")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RecipeError(f"{where}: is nested more than {MAX_DEPTH} levels deep.")
        if count > MAX_NODES:
            raise RecipeError(f"{where}: more than {MAX_NODES:,} values; no recipe has as many.")


class _Builder:
    def __init__(self, name: str, document: Document) -> None:
        self.name, self.count = name, 0
        self.lines, self.spans = document.lines, document.spans

    def build(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self.count += 1
        # A chain of aliases can unfold to billions of nodes, and one to itself never ends.
        if self.count > MAX_NODES or len(path) > MAX_DEPTH:
            raise RecipeError(
                f"{self.name}:{line}: has aliases that unfold beyond reason.",
                "Write out what they stand for.",
            )
        self.lines.setdefault(path, line)
        self.spans[path] = node.start_mark.index, node.end_mark.index
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return scalar(node.value) if node.style is None else node.value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{self.name}:{line}: a key must be a word.")
            if key in mapping:
                before = self.lines[(*path, key)]
                raise RecipeError(
                    f"{self.name}:{line}: {key} is there twice, in line {before} as well.",
                    "Keep one of them.",
                )
            self.lines[(*path, key)] = line
            mapping[key] = self.build(value_node, (*path, key))
        return mapping


class _Writer(yaml.SafeDumper):
    """Also quotes what is text to PyYAML and a number to `scalar`, such as 1e5."""

    def text(self, text: str) -> yaml.ScalarNode:
        style = None if isinstance(scalar(text), str) else "'"
        # Where it is shown with escapes, those are the quotes that give them their meaning.
        style = style if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(str, _Writer.text)
