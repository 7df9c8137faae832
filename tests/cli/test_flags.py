"""What messages say of flags: each is an option of some command."""

import ast
import re
from pathlib import Path

import typer

import kdcli
from kdcli.cli.app import app

# Its texts are files of Docker, with flags of other programs.
_NO_MESSAGES = {"container.py"}
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def options(command):
    found = {flag for parameter in command.params for flag in parameter.opts}
    for inner in getattr(command, "commands", {}).values():
        found |= options(inner)
    return found


def messages(path):
    """The string literals of a module, without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield node.lineno, node.value


def test_every_flag_that_a_message_names_exists():
    known = options(typer.main.get_command(app)) | {"--help"}
    named = {
        flag: f"{path.name}:{line}"
        for path in Path(kdcli.__file__).parent.rglob("*.py")
        if path.name not in _NO_MESSAGES
        for line, text in messages(path)
        for flag in _FLAG.findall(text)
    }
    assert len(named) > 20
    assert {flag: where for flag, where in named.items() if flag not in known} == {}
