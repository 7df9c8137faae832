"""Strict YAML: plain scalars, lists and mappings, with the line of each.

PyYAML reads YAML 1.1: `1e-5` is text, `off` is False, `12:30` is 750, and the last of repeated keys
wins silently. Here scalars follow the YAML 1.2 core schema, repeated keys and tags are errors, and
depth, aliases and size have limits.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from kdcli.errors import RecipeError

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 20_000

KeyPath = tuple[str | int, ...]

_INT_PATTERN = re.compile(r"[-+]?[0-9]+")
_FLOAT_PATTERN = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # an escape may be half of a UTF-16 pair
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass
class YamlDocument:
    """A parsed document: its value, and the position of each key or item.

    Attributes:
        value: Scalars, lists and mappings.
        line_numbers: The line of each key or item.
        value_spans: Start and end of each value, in characters.
    """

    value: Any
    line_numbers: dict[KeyPath, int] = field(default_factory=dict)
    value_spans: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)

    def line_number(self, path: KeyPath) -> int:
        """Return the line of `path`, or of its nearest parent that the document has."""
        while path and path not in self.line_numbers:
            path = path[:-1]
        return self.line_numbers.get(path, 1)


def parse_yaml(text: str, display_name: str) -> YamlDocument:
    """Parse one YAML document.

    Args:
        text: The document.
        display_name: Its name in errors, such as the file's path.

    Raises:
        RecipeError: It isn't YAML, repeats a key, has a tag, or exceeds a limit.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(
            f"{display_name}: is larger than {MAX_BYTES:,} characters, the limit for a recipe."
        )
    try:
        _check_limits_and_tags(text, display_name)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        hint = "YAML is indented with spaces." if "\\t" in str(error.problem) else ""
        raise RecipeError(f"{display_name}:{line}: is not YAML: {error.problem}.", hint) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character U+{error.character:04X}"
        raise RecipeError(
            f"{display_name}:{line}: is not YAML: it holds {what}.", "Delete it."
        ) from error
    document = YamlDocument(None)
    if node is not None:
        document.value = _DocumentBuilder(display_name, document).build(node, ())
    return document


def parse_scalar(text: str) -> Any:
    """Return the value of a plain (unquoted) scalar under the YAML 1.2 core schema."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT_PATTERN.fullmatch(text):
        return int(text) if len(text) < 100 else text
    if _FLOAT_PATTERN.fullmatch(text):
        return float(text)
    return text


def dump_yaml(value: Any) -> str:
    """Return YAML that `parse_yaml` reads as the same value."""
    return yaml.dump(value, Dumper=_YamlDumper, sort_keys=False, allow_unicode=True)


def _check_limits_and_tags(text: str, display_name: str) -> None:
    # Composing recurses and is slow, parsing events isn't: so check depth and count first. Events
    # also carry explicit tags only, whereas composing gives every value a tag.
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        where = f"{display_name}:{event.start_mark.line + 1 if event.start_mark else 1}"
        if tag := getattr(event, "tag", None):
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise RecipeError(
                f"{where}: has the tag {shown}; recipes have no tags.",
                "Delete it; quotes make a value text.",
            )
        if isinstance(event, yaml.ScalarEvent) and _LONE_SURROGATE.search(event.value):
            raise RecipeError(f"{where}: holds half a character.", "Delete the escape \\ud….")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RecipeError(f"{where}: is nested more than {MAX_DEPTH} levels deep.")
        if count > MAX_NODES:
            raise RecipeError(f"{where}: more than {MAX_NODES:,} values, the limit for a recipe.")


class _DocumentBuilder:
    def __init__(self, display_name: str, document: YamlDocument) -> None:
        self.display_name, self.node_count = display_name, 0
        self.line_numbers, self.value_spans = document.line_numbers, document.value_spans

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        line = node.start_mark.line + 1
        self.node_count += 1
        # Nested aliases can unfold to billions of nodes, and a recursive one never ends.
        if self.node_count > MAX_NODES or len(path) > MAX_DEPTH:
            raise RecipeError(
                f"{self.display_name}:{line}: has aliases that unfold to too many values.",
                "Write the values out instead.",
            )
        self.line_numbers.setdefault(path, line)
        self.value_spans[path] = node.start_mark.index, node.end_mark.index
        if isinstance(node, yaml.MappingNode):
            return self._build_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return parse_scalar(node.value) if node.style is None else node.value

    def _build_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{self.display_name}:{line}: a key must be a word.")
            if key in mapping:
                before = self.line_numbers[(*path, key)]
                raise RecipeError(
                    f"{self.display_name}:{line}: {key} is given twice, in line {before} too.",
                    "Keep one of them.",
                )
            self.line_numbers[(*path, key)] = line
            mapping[key] = self.build(value_node, (*path, key))
        return mapping


class _YamlDumper(yaml.SafeDumper):
    """Quotes text that `parse_scalar` reads as a number, such as 1e5."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = None if isinstance(parse_scalar(text), str) else "'"
        # Escapes need double quotes.
        style = style if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_YamlDumper.add_representer(str, _YamlDumper.represent_text)
