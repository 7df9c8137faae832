"""The page opens from the disk, shows what was measured, and runs nothing."""

import itertools
import json
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from kdcli import pipeline
from kdcli.progress import Silent

EVIL = "<script>alert(1)</script>"
EMPTY = {"meta", "link", "br", "img", "hr", "input", "wbr"}


class Reader(HTMLParser):
    """Elements with their attributes, and the text; refuses what isn't nested."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(run):
    return (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(page):
    return Reader(page)


def test_it_refers_to_nothing_outside_itself(page, read):
    links = [
        value
        for _, attributes in read.elements
        for name, value in attributes.items()
        if name in ("href", "src", "xlink:href", "srcset", "action")
    ]
    assert links
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert "url(http" not in page
    assert "@import" not in page


def test_text_from_the_data_is_text(page, read):
    assert EVIL not in page
    assert "<img" not in page
    assert not {"script", "img"} & {tag for tag, _ in read.elements}
    assert not any(name.startswith("on") for _, a in read.elements for name in a)
    said = "".join(read.text)
    assert EVIL in said
    assert "<img src=x onerror=alert(2)> $\\frac{1}$ & \\u202eback" in said
    assert "\u202e" not in page


def test_each_picture_says_what_it_shows(read):
    pictures = [attributes for tag, attributes in read.elements if tag == "svg"]
    # Cost; loss and accuracy of the teacher; the loss, two terms and accuracy of the student;
    # reliability and scope on two splits.
    assert len(pictures) == 1 + 2 + 4 + 4
    assert all(p["role"] == "img" and len(p["aria-label"]) > 40 for p in pictures)
    assert len({p["aria-label"] for p in pictures}) == len(pictures)


def test_no_two_elements_have_one_id_and_every_reference_has_its_target(read):
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a.get(n, "")[1:] for _, a in read.elements for n in ("href", "xlink:href")
               if a.get(n, "").startswith("#")}  # fmt: skip
    targets |= {a["aria-labelledby"] for _, a in read.elements if "aria-labelledby" in a}
    assert targets <= set(ids)


def test_headings_don_t_skip_a_level(read):
    levels = [int(tag[1]) for tag, _ in read.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_the_figures_are_those_of_the_evaluation(run, read):
    said = "".join(read.text)
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    for model in evaluation["models"]:
        assert model["name"] in said
        for split, found in model["splits"].items():
            assert split in said
            for figure in ("accuracy", "macro_f1", "in_scope_accuracy", "ece"):
                assert f"{100 * found[figure]:.2f} %" in said
            low, high = found["intervals"]["accuracy"]
            assert f"{100 * low:.2f} to {100 * high:.2f}" in said
    for rows in evaluation["apart"].values():
        assert rows
        for row in rows:
            assert row["text"].replace("\u202e", "\\u202e") in said
            assert row["student_label"] in said


def test_neither_page_nor_card_says_where_it_was_made(run, page):
    for text in (page, (run / "student/README.md").read_text(encoding="utf-8")):
        assert str(run.parent) not in text
        assert "/tmp" not in text


def test_kd_card_writes_the_page_again(run, page, tmp_path):
    own = shutil.copytree(run, tmp_path / "own")
    (own / "report.html").unlink()
    pipeline.write_card(own, Silent())
    assert (own / "report.html").read_text(encoding="utf-8") == page


def test_the_card_s_own_lines_of_python_run(run, tmp_path, monkeypatch):
    card = (run / "student/README.md").read_text(encoding="utf-8")
    shutil.copytree(run / "student", tmp_path / "evil")
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(card.partition("```python\n")[2].partition("```")[0] + "answer = classify('hello')", found)
    assert found["answer"][0]["score"] > 0


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no Chromium")
def test_a_browser_shows_it_whole_on_a_phone_too(run, tmp_path):
    # A page that fits has no scroll bar of its own: the document is as wide as the window.
    probe = tmp_path / "probe.html"
    probe.write_text(
        f'<iframe src="{(run / "report.html").as_uri()}" style="width: 390px; height: 800px">'
        "</iframe><script>onload = () => { const d = frames[0].document; document.title = "
        "[d.documentElement.scrollWidth <= d.documentElement.clientWidth, "
        "d.querySelectorAll('svg text').length > 20, "
        "getComputedStyle(d.body).backgroundColor].join(' ') }</script>"
    )
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
         "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom",
         probe.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "<title>true true rgb(" in done.stdout, done.stdout
