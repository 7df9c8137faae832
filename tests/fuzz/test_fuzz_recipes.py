"""Whatever a recipe's file holds: it loads, or one line says what is wrong with it."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from kdcli.errors import KdError, RecipeError
from kdcli.recipe.loading import dump_recipe, load_recipe
from kdcli.recipe.recipe_lookup import shipped_recipe_paths
from kdcli.sanitize import printable

VALID = yaml.safe_load(shipped_recipe_paths()["clinc_plus"].read_text())
VALID["data"] |= {"splits": {"train": "train"}, "validation_fraction": 0.2, "max_length": 64}
VALID["student"] = {
    "keep_layers": [0, 2],
    "architecture": "same",
    "model": None,
    "revision": "main",
}
VALID["teacher"]["also"] = [{"model": "a/b", "weight": 0.5}]
ENDPOINT = {
    "kind": "endpoint", "url": "http://localhost/v1", "model": "m", "descriptions": {"a": "b"},
    "price_per_million_tokens": [1.0, 2.0], "max_cost": 3.0,
}  # fmt: skip
BLACK_BOX = VALID | {"teacher": ENDPOINT, "student": {"model": "a/b"}}

PIECES = [
    "name", "data", "dataset", "teacher", "model", "distill", "losses", "kind", "seed", "a", "~x/y",
    "~", "./", "1", "-1", "1e5", "1e999", ".nan", "true", "null", "9" * 400, ": ", ":", "- ", "-",
    "? ", "[", "]", "{", "}", ", ", ",", "\n", "\n  ", "\n    ", "  ", "\t", "&a ", "*a", "&b ",
    "*b", "<<", "!!str ", "! ", "!x ", "!!python/name:os.system ", "%YAML 1.2\n", "---\n", "...\n",
    "|\n", ">-\n", "'", '"', r"\u2028", r"\ud800", r"\0", "\\", "#", "@", "`", "=", "\0", "\x85",
    "\u2028", "\ufeff", "\ud800", "é", "𝄞",
]  # fmt: skip

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["", "~nosuchuser/x", "a" * 300, "./\0", "package:a/\0", "package:..", "2e-5"]
    )
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def paths(value, path=()):
    """Every place in nested keys and lists."""
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


@st.composite
def changed(draw):
    """A valid recipe, some of its keys gone, renamed, or with other values."""
    recipe = json.loads(json.dumps(draw(st.sampled_from([VALID, BLACK_BOX]))))
    for _ in range(draw(st.integers(0, 3))):
        *above, last = draw(st.sampled_from(list(paths(recipe))))
        node = recipe
        for key in above:
            node = node[key]
        match draw(st.sampled_from(["drop", "replace", "rename"])):
            case "drop":
                del node[last]
            case "rename" if isinstance(node, dict):
                node[draw(st.text(max_size=10))] = node.pop(last)
            case _:
                node[last] = draw(values)
        if not list(paths(recipe)):
            break
    style = draw(st.sampled_from([None, True, False]))
    return yaml.safe_dump(recipe, default_flow_style=style, allow_unicode=True).encode(
        errors="surrogatepass"
    )


@st.composite
def spliced(draw):
    """A valid recipe with bytes cut out and others put in."""
    content = shipped_recipe_paths()["clinc_plus"].read_bytes()
    for _ in range(draw(st.integers(1, 3))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        put = draw(st.binary(max_size=8) | st.sampled_from(PIECES).map(encoded))
        content = content[:start] + put + content[min(end, start + 40) :]
    return content


def encoded(text):
    return text.encode(errors="surrogatepass")


like_yaml = st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join).map(encoded)


@pytest.mark.parametrize(
    "contents",
    [st.binary() | like_yaml, changed(), spliced()],
    ids=["anything", "changed", "spliced"],
)
def test_a_recipe_loads_or_one_line_says_why_not(tmp_path, contents):
    path = tmp_path / "recipe.yaml"

    @examples(30)
    @given(contents)
    def run(content):
        path.write_bytes(content)
        try:
            recipe = load_recipe(str(path))
        except RecipeError as error:
            assert str(error).startswith(f"{path}:")
            assert printable(str(error)) == str(error)
            return
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(str(path)) == recipe

    run()


keys = st.sampled_from([".".join(map(str, path)) for path in paths(VALID)])
parts = st.sampled_from(["0", "1", "-1", "²", "x", "", "losses", "weight", "splits"])
dotted = keys | st.lists(keys | parts, max_size=3).map(".".join)


def test_an_override_holds_or_one_line_says_why_not():
    @examples(30)
    @given(dotted, values.map(str) | st.lists(st.sampled_from(PIECES)).map("".join))
    def run(key, value):
        try:
            load_recipe("clinc_plus", [f"{key}={value}"])
        except KdError as error:
            assert str(error).startswith("--set ")
            assert printable(str(error)) == str(error)

    run()
