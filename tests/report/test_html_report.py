"""The page opens from the disk, shows what was measured, and runs nothing."""

import itertools
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kdcli.pipeline import finished_run
from kdcli.progress import SilentReporter

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


def test_the_verdict_comes_first(run, page):
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    student = evaluation["models"][1]["splits"]["test"]["accuracy"]
    above, verdict = page.partition('<p class="verdict">')[::2]
    assert "<table" not in above
    # This student has hardly learnt.
    assert "do not use it" in verdict.partition("</p>")[0]
    tiles = verdict.partition("</dl>")[0]
    assert f"{100 * student:.2f}\N{NO-BREAK SPACE}%" in tiles
    assert re.findall("<dt>(.*?)</dt>", tiles) == [
        "Accuracy on test",
        "Speed",
        "Size",
        "Out of scope",
    ]


def test_validation_is_folded_away_where_there_is_test(page):
    folded = re.findall(r'<details class="other">\n<summary>(.*?)</summary>', page)
    assert folded == [
        f"{part} on validation" for part in ("Results", "Errors", "Classes", "Disagreements")
    ]


def test_disagreements_are_grouped_by_who_is_right(run, page):
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    pair = evaluation["models"][1]["splits"]["test"]["against"]["teacher"]
    section = page.partition('<h2 id="apart">')[2]
    count = re.search("Teacher right, student wrong: ([\\d,]+) text", section)
    assert int(count[1].replace(",", "")) == pair["broken"]
    # Five rows of a long table first, the others in the next element.
    first_table = section.partition("</table>")[0]
    assert first_table.count("<tr>") == 1 + min(5, pair["broken"])


def test_neither_page_nor_card_says_where_it_was_made(run, page):
    for text in (page, (run / "student/README.md").read_text(encoding="utf-8")):
        assert str(run.parent) not in text
        assert "/tmp" not in text


def test_kd_card_writes_the_page_again(run, page, tmp_path):
    own = shutil.copytree(run, tmp_path / "own")
    (own / "report.html").unlink()
    finished_run.rewrite_reports(own, SilentReporter())
    assert (own / "report.html").read_text(encoding="utf-8") == page


def test_the_card_s_own_lines_of_python_run(run, tmp_path, monkeypatch):
    card = (run / "student/README.md").read_text(encoding="utf-8")
    shutil.copytree(run / "student", tmp_path / "evil")
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(card.partition("```python\n")[2].partition("```")[0] + "answer = classify('hello')", found)
    assert found["answer"][0]["score"] > 0


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
SCHEMES = {"light": "1", "dark": "0"}


@pytest.fixture(scope="module", params=SCHEMES)
def seen(request, run, tmp_path_factory):
    """What a browser shows in a light or a dark scheme, on a phone and on a desk; see look.js."""
    folder = tmp_path_factory.mktemp("browser")
    frames = "".join(
        f'<iframe src="{(run / "report.html").as_uri()}" style="width: {w}px; height: 800px">'
        "</iframe>"
        for w in (390, 1280)
    )
    script = Path(__file__).with_name("look.js").read_text(encoding="utf-8")
    (folder / "look.html").write_text(f"{frames}<script>{script}</script>", encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", f"--user-data-dir={folder / 'profile'}",
         "--allow-file-access-from-files", "--virtual-time-budget=20000", "--dump-dom",
         f"--blink-settings=preferredColorScheme={SCHEMES[request.param]}",
         (folder / "look.html").as_uri()],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    found = re.search("<title>(.*)</title>", done.stdout)
    assert found, done.stderr
    return request.param, dict(zip(("phone", "desk"), json.loads(unescape(found[1])), strict=True))


@pytest.mark.skipif(not BROWSER, reason="there is no Chromium")
@pytest.mark.parametrize("place", ["phone", "desk"])
class TestInABrowser:
    """The page as it is laid out."""

    def test_nothing_is_wider_than_the_window(self, seen, place):
        assert seen[1][place]["wide"] == []

    def test_verdict_and_main_figures_are_on_the_first_screen(self, seen, place):
        assert 0 < seen[1][place]["tiles"] < 800

    def test_the_difference_from_the_teacher_is_in_the_window(self, seen, place):
        assert seen[1][place]["difference"] <= 1

    def test_the_scheme_is_the_reader_s(self, seen, place):
        scheme, found = seen
        assert (sum(found[place]["background"]) > 600) == (scheme == "light")

    def test_every_text_stands_out_from_what_is_behind_it(self, seen, place):
        # WCAG 2.2, success criterion 1.4.3: 4.5 to 1.
        assert seen[1][place]["texts"] > 200
        assert seen[1][place]["faint"] == []

    def test_keys_reach_all_that_scrolls_and_show_where_they_are(self, seen, place):
        found = seen[1][place]
        assert found["unreachable"] == []
        assert found["first"] == "Skip to the results"
        assert found["unmarked"] == []
        if place == "phone":
            assert found["scrolling"] > 3
