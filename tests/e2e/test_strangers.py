"""Data, names and folders of strangers: shown and kept, never obeyed."""

import ast
import csv
import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import forked
import helpers
import pytest
import yaml
from hub_server import HubServer
from markdown_it import MarkdownIt

import kdcli
from kdcli.errors import RecipeError
from kdcli.recipe.loading import load_recipe
from kdcli.report import user_card_notes
from kdcli.safe_files import sha256_of_file
from kdcli.sanitize import printable

TOKEN = "hf_" + "SecretOfTheUser" * 2
LABELS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](http://evil.example)",
    "![pixel](http://evil.example/x.png)",
    "<http://evil.example>",
    "http://evil.example www.evil.example a@evil.example evil.example",
    "x\n\n# heading\n\n---\nlicense: evil\n---\nx",
    "| a | b |\n| --- | --- |",
    "`` ` ``` fence\n```\nx",
    "**bold** _thin_ ~~gone~~ $x$ &lt;b&gt; \\",
    "\x1b[2J\x1b]0;title\x07\x1b]8;;http://evil.example\x1b\\",
    "\x9b31m\x85\x7f\u2028\u202egnp.exe\u2066\ufeff",
    "[bold red]x[/] :boom:",
    "{{ 7 * 7 }} {% raw %} ${HOME} %s {0}",
    "$(touch pwned) `touch pwned`; touch pwned",
    "!!python/object/apply:os.system ['touch pwned']",
    "../../pwned",
]


@pytest.fixture
def kd(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return helpers.kd


@pytest.fixture(scope="module")
def place(tiny_backbone, tmp_path_factory):
    """A working folder with data, a model and a recipe that mean no good."""
    folder = tmp_path_factory.mktemp("strangers")
    data = folder / "<b>data `x` (y) \u202e"
    data.mkdir()
    for split, copies in (("train", 6), ("validation", 2), ("test", 2)):
        with (data / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            rows.writerows(
                [f"{label} number {i}", label] for label in LABELS for i in range(copies)
            )
    model = folder / "te`a`cher](http:) <i>\u202e"
    shutil.copytree(tiny_backbone, model)
    fit = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
    recipe = {
        "name": "www.evil.example_-_",
        "data": {"dataset": str(data), "config": "<b>\x1b[2J"},
        "teacher": {"model": str(model), "fine_tune": fit},
        "student": {"model": str(model)},
        "distill": fit,
        "evaluate": {"latency_texts": 3, "out_of_scope": LABELS[8]},
        "card": {
            "license": "mit\n---\n# heading",
            "language": ["en\x1b[2J", "- [x](http://evil.example)"],
            "dataset_name": " ".join(LABELS),
        },
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


@pytest.fixture(scope="module")
def done(place):
    env = {**os.environ, "HF_TOKEN": TOKEN}
    done = forked.kd("distill", "recipe.yaml", "-o", "run", cwd=place, env=env)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def card(done, place):
    return (place / "run/student/README.md").read_text("utf-8")


def check_harmless(*streams):
    for line in "".join(streams).split("\n"):
        assert line.isprintable(), ascii(line)


def test_the_labels_come_through_whole(done, place):
    config = json.loads((place / "run/student/config.json").read_text("utf-8"))
    assert sorted(config["id2label"].values()) == sorted(LABELS)


def test_the_card_s_metadata_are_data(card):
    front, end, _ = card.removeprefix("---\n").partition("\n---\n")
    data = yaml.safe_load(front)
    assert end
    assert set(data) == {
        "language", "license", "library_name", "tags", "metrics", "pipeline_tag", "model-index",
    }  # fmt: skip
    assert data["license"] == "mit\\n---\\n# heading"
    assert data["language"] == ["en\\x1b[2J", "- [x](http://evil.example)"]
    assert data["model-index"][0]["name"] == "www.evil.example_-_"
    check_harmless(card)


def test_the_card_s_text_holds_no_more_than_ours(card):
    body = card.removeprefix("---\n").partition("\n---\n")[2]
    tokens = MarkdownIt("gfm-like", {"html": True}).parse(body)
    inline = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in (*tokens, *inline)}
    assert not kinds & {"html_inline", "image", "link_open", "hr"}
    assert not kinds & {"s_open", "strong_open", "blockquote_open"}
    blocks = [token.content for token in tokens if token.type == "html_block"]
    assert (
        "".join(blocks)
        == f"{user_card_notes.NOTE_BEGIN_MARKER}\n{user_card_notes.NOTE_END_MARKER}\n"
    )
    titles = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert not [title for title in titles[1:] if "heading" in title.content]
    assert "".join(c.content for c in titles[0].children) == "www.evil.example_-_"
    # How to use it, and whom to cite.
    assert len([token for token in tokens if token.type == "fence"]) == 2
    assert "`` ` ``` fence\\n```\\nx" in [c.content for c in inline if c.type == "code_inline"]
    assert "te`a`cher](http:) <i>\\u202e" in [c.content for c in inline if c.type == "code_inline"]


def test_the_page_holds_no_character_that_steers(done, place):
    page = (place / "run/report.html").read_text("utf-8")
    assert "\\x1b[2J" in page
    assert printable(page, keep="\n") == page


def test_the_terminal_is_not_steered(done, kd):
    check_harmless(done.stdout, done.stderr)
    for arguments, code in (
        (("distill", "recipe.yaml", "-o", "run", "--dry-run"), 0),
        (("distill", "recipe.yaml", "-o", "b", "--set", "data.label=\u202e"), 2),
        (("recipe", "show", "recipe.yaml"), 0),
        (("recipe", "check", "\x1b[2J\u202e"), 2),
        (("evaluate", "run/student", "--label", "\x9b31m"), 2),
        (("evaluate", "run/student", "--out-of-scope", "\x9b31m"), 2),
        (("init-student", "./\x1b[2J"), 2),
        (("card", "\x1b[2J"), 2),
    ):
        for more in ((), ("--json",)):
            shown = kd(*arguments, *more)
            assert shown.exit_code == code, shown.stderr
            check_harmless(shown.stdout, shown.stderr)
            assert not more or json.loads(shown.stdout)


def test_a_recipe_that_is_shown_is_the_same_recipe(place, kd):
    shown = kd("recipe", "show", "recipe.yaml")
    (place / "again.yaml").write_text(shown.stdout, "utf-8")
    assert load_recipe(str(place / "again.yaml")) == load_recipe(str(place / "recipe.yaml"))


def test_nothing_was_run(done, place):
    assert not list(place.rglob("pwned")) + list(place.parent.glob("pwned"))
    assert not Path("pwned").exists()


def test_the_token_is_nowhere(done, place):
    assert TOKEN not in done.stdout + done.stderr
    written = [path for path in (place / "run").rglob("*") if path.is_file()]
    assert len(written) > 20
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


SECRETS = [
    ["distill", "recipe.yaml", "--set", "teacher.model=https://user:s3cr3t@evil.example/m"],
    ["distill", "recipe.yaml", "--set", "data.dataset=https://user:s3cr3t@evil.example/d.csv"],
    ["distill", "recipe.yaml", "--set", "student.model=git+ssh://s3cr3t@evil.example/m"],
    ["distill", "recipe.yaml", "--set", "https://user:s3cr3t@evil.example"],
    ["distill", "https://user:s3cr3t@evil.example/recipe.yaml"],
    ["recipe", "check", "recipe.yaml", "--set", "sede=https://user:s3cr3t@evil.example"],
    ["init-student", "https://user:s3/cr3t@evil.example/m"],
    ["evaluate", "https://user:s3cr3t@evil.example/m", "--data", "recipe.yaml"],
    ["evaluate", "m", "--data", "https://user:s3cr3t@evil.example/m"],
    ["evaluate", "m", "--fail-under", "https://user:s3cr3t@evil.example/m"],
    ["card", "run", "--push", f"owner/{TOKEN}/name"],
    ["init-student", f"./{TOKEN}"],
]


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["plain", "json"])
@pytest.mark.parametrize("arguments", SECRETS, ids=lambda a: " ".join(a)[:60])
def test_an_error_tells_no_secret_and_nothing_is_written(done, place, kd, arguments, more):
    refused = kd(*arguments, *more)
    assert refused.exit_code == 2, refused.stderr
    assert refused.stderr.splitlines()[-1].startswith("Error: ")
    for secret in ("s3cr3t", "cr3t", TOKEN):
        assert secret not in refused.stdout + refused.stderr
    assert not (place / "runs").exists()


NAMES = ("..", "../x", "a/b", "/tmp/x", "a\\b", "~", "", "CON", "nul.txt", "Com1", "lpt9.a.b", "a.",
         "a\nb", "-a", ".a", "a\0b", "é", "a" * 97)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_run_s_name_stays_in_its_place(place, name):
    with pytest.raises(RecipeError, match="name"):
        load_recipe(str(place / "recipe.yaml"), [f"name={json.dumps(name)}"])


@pytest.mark.parametrize("key", ["data.revision", "teacher.revision", "student.revision"])
@pytest.mark.parametrize("revision", ["../../x", "/x", "a/.."])
def test_a_revision_is_no_path(place, key, revision):
    with pytest.raises(RecipeError, match=f"{key} is not a branch, tag or commit"):
        load_recipe(str(place / "recipe.yaml"), [f"{key}={revision}"])


LINKS = ("recipe.yaml", "run.json", ".lock", ".holder", ".work", "logs", "student",
         "student/config.json", "logs/distill.jsonl", ".work/distill")  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("command", ["distill", "card"])
def test_a_link_in_a_run_s_folder_is_not_followed(done, place, kd, tmp_path, name, command):
    own = tmp_path / "run"
    shutil.copytree(place / "run", own, symlinks=True)
    outside = tmp_path / "outside"
    inside = own / name
    if inside.exists():
        inside.rename(outside)
    else:
        (outside / "build").mkdir(parents=True)
        (outside / "build/precious").touch()
        inside.parent.mkdir(exist_ok=True)
    inside.symlink_to(outside)
    before = snapshot(outside)
    arguments = [own] if command == "card" else [place / "recipe.yaml", "-o", own, "--fresh"]
    refused = kd(command, *arguments)
    assert refused.exit_code == 2, refused.stderr
    assert "is a link" in refused.stderr
    assert snapshot(outside) == before


def test_links_in_artifacts_places_are_replaced_themselves(done, place, kd, tmp_path):
    own, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(place / "run", own, symlinks=True)
    outside.mkdir()
    names = ("teacher", "student-init", "teacher-outputs", "evaluation.json")
    for name in names:
        (own / name).rename(outside / name)
        (own / name).symlink_to(outside / name)
    before = snapshot(outside)
    again = kd("distill", place / "recipe.yaml", "-o", own, "--fresh")
    assert again.exit_code == 0, again.stderr
    assert not any((own / name).is_symlink() for name in names)
    assert snapshot(outside) == before


def test_a_link_in_a_student_s_place_is_not_followed(kd, tiny_backbone, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "student").symlink_to(tmp_path / "outside")
    refused = kd("init-student", tiny_backbone, "-o", tmp_path / "student", "--fresh")
    assert refused.exit_code == 2, refused.stderr
    assert not list((tmp_path / "outside").iterdir())


def zipped(files):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def tarred(files):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


ROWS = b"text,intent\nwhere is my parcel,track_order\n"


@pytest.mark.parametrize(
    ("pack", "kind", "climbs", "code"),
    [(zipped, "zip", False, 0), (zipped, "zip", True, 2), (tarred, "tar.gz", True, 2)],
)
def test_an_archive_leaves_no_file_outside_the_cache(
    tiny_teacher, tmp_path, pack, kind, climbs, code
):
    outside = tmp_path / "outside.csv"
    names = ["test.csv", *(["../" * 20 + "up.csv", str(outside)] if climbs else [])]
    command = ["evaluate", tiny_teacher, "--label", "intent", "--data", "owner/packed"]
    with HubServer() as hub:
        archive = {f"test.{kind}": pack(dict.fromkeys(names, ROWS))}
        hub.add_repo("dataset", "owner/packed", archive)
        online = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env = {**online, **hub.env(), "HF_HOME": str(tmp_path / "cache")}
        done = forked.kd(*command, cwd=tmp_path, env=env)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}
    assert not Path("/up.csv").exists()


def snapshot(path):
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file): sha256_of_file(file) for file in files}


FORBIDDEN = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.startfile"}
MODULES = ("subprocess", "pickle", "marshal", "shelve", "pty", "dill", "joblib")


@pytest.mark.parametrize(
    "path", sorted(Path(kdcli.__file__).parent.rglob("*.py")), ids=lambda path: path.name
)
def test_the_code_calls_no_shell_and_no_code_of_others(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in FORBIDDEN
            assert not name.startswith(("os.exec", "os.spawn", "torch.load", "yaml.load"))
            assert not [k for k in node.keywords if k.arg == "shell"]
            pickled = [ast.unparse(k.value) for k in node.keywords if k.arg == "weights_only"]
            assert pickled in ([], ["True"])
            trusted = [k.value for k in node.keywords if k.arg == "trust_remote_code"]
            assert all(isinstance(value, ast.Constant) and not value.value for value in trusted)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            assert not [name for name in names if name.split(".")[0] in MODULES]
