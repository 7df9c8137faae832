"""The page to try texts, in Chromium: what it shows, how it is laid out, and what it may load."""

import json
import re

import httpx
import numpy as np
import pytest
from serving.browser import BROWSER, Browser
from serving.running import FakeClassifier, running

EVIL = "<img src=x onerror=alert(1)>"

pytestmark = pytest.mark.skipif(not BROWSER, reason="there is no Chromium")

# Texts that are too faint to read, by WCAG 2: less than 4.5 to 1.
FAINT = """(() => {
  const channels = (colour) => {
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    const colour = channels(getComputedStyle(element).backgroundColor);
    return colour[3] === 255 ? colour : behind(element.parentElement);
  };
  const luminance = (colour) => {
    const linear = colour.slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const contrast = (element) => {
    const pair = [channels(getComputedStyle(element).color), behind(element)].map(luminance);
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  };
  const words = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  const shown = [...document.querySelectorAll("body *")].filter((e) => words(e) && e.offsetParent);
  if (shown.length < 10) throw Error("there is nothing to see");
  return shown.filter((e) => contrast(e) < 4.5).map((e) => e.textContent);
})()"""
NAMES = "[...document.querySelectorAll('article li span:first-child')].map((e) => e.textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One tab for all tests."""
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server of a model that refuses texts, with a teacher that has a label of HTML."""
    folder = tmp_path_factory.mktemp("page")
    point = {"label": "c", "score": "margin", "threshold": 0.0}
    (folder / "kd.json").write_text(json.dumps({"temperature": 1, "operating_point": point}))
    teacher = FakeClassifier(tmp_path_factory.mktemp("teacher"))
    teacher.labels = ("a", EVIL, "c")
    with running(FakeClassifier(folder), name="letters", teacher=teacher) as address:
        yield address


def label(browser, text):
    """Write a text, and press the button."""
    browser.run("document.getElementById('answers').replaceChildren()")
    browser.run("document.getElementById('error').hidden = true")
    browser.run(f"document.getElementById('text').value = {json.dumps(text)}")
    browser.run("document.querySelector('button').click()")
    browser.wait("document.querySelector('article') || !document.getElementById('error').hidden")


def problems(browser):
    """What the browser refused, or could not load or run."""
    wrong = [each for each in browser.events if each.get("method") in
             ("Log.entryAdded", "Runtime.exceptionThrown", "Network.loadingFailed")]  # fmt: skip
    browser.events.clear()
    return wrong


def text_of(browser, selector):
    return browser.run(f"document.querySelector({selector!r}).innerText")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_shows_the_decisions_of_student_and_teacher(browser, address, width, scheme):
    problems(browser)
    browser.open(address, width, scheme)
    browser.wait("document.title === 'letters'")
    label(browser, "a")
    assert browser.run("document.querySelectorAll('article').length") == 2
    assert text_of(browser, "article .decision") == "a"
    assert "refused" not in text_of(browser, "article")
    assert " ms" in text_of(browser, "article h2")
    assert text_of(browser, "#agreement").endswith(" agree.")
    label(browser, "c")
    assert text_of(browser, "article .decision") == "c"
    assert "refused" in text_of(browser, "article")
    label(browser, "b")
    assert text_of(browser, "#agreement").endswith(" disagree.")
    # A label is text, whatever it looks like.
    assert EVIL in browser.run(NAMES)
    bars = browser.run("[...document.querySelectorAll('.bar i')].map((e) => e.offsetWidth)")
    assert max(bars[:3]) > 5 * min(bars[:3])
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(FAINT) == []
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) > 600) == (scheme == "light")
    assert problems(browser) == []


def test_cards_are_side_by_side_where_there_is_room(browser, address):
    tops = "[...document.querySelectorAll('article')].map((e) => e.getBoundingClientRect().top)"
    for width, is_wide in ((390, False), (1280, True)):
        browser.open(address, width)
        label(browser, "a")
        first, second = browser.run(tops)
        assert (first == second) == is_wide


def test_keys_reach_all_and_ctrl_enter_labels(browser, address):
    browser.open(address, 1280)
    browser.wait("document.title === 'letters'")
    assert browser.run("document.activeElement.id") == "text"
    browser.call("Input.insertText", text="a")
    key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 2}
    browser.call("Input.dispatchKeyEvent", type="rawKeyDown", **key)
    browser.wait("document.querySelector('article')")
    reached = []
    for _ in range(2):
        for kind in ("rawKeyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab",
                         windowsVirtualKeyCode=9)  # fmt: skip
        reached.append(browser.run("document.activeElement.id || document.activeElement.tagName"))
        assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == ["is-pair", "BUTTON"]


def test_a_pair_of_texts(browser, tmp_path):
    seen = []
    with running(FakeClassifier(tmp_path, act=seen.extend), name="letters") as address:
        browser.open(address, 390)
        browser.run("document.getElementById('is-pair').click()")
        browser.run("document.getElementById('pair').value = 'b'")
        label(browser, "a")
    assert seen[-1] == ("a", "b")


def test_it_asks_for_a_token(browser, tmp_path):
    with running(FakeClassifier(tmp_path), name="letters", api_keys=["the-token"]) as address:
        browser.open(address, 390)
        browser.wait("!document.getElementById('token').hidden")
        browser.run("document.getElementById('key').value = 'the-token'")
        label(browser, "b")
        assert text_of(browser, ".decision") == "b"
        assert text_of(browser, "h1") == "letters"
        assert not browser.run("location.href").count("token")


def test_errors_are_shown(browser, tmp_path):
    with running(FakeClassifier(tmp_path), name="letters") as address:
        browser.open(address, 390)
        browser.wait("document.title === 'letters'")
    label(browser, "a")
    assert text_of(browser, "#error")
    assert browser.run("document.querySelectorAll('article').length") == 0


def test_several_labels_and_scores(browser, tmp_path):
    (tmp_path / "kd.json").write_text(
        json.dumps({"temperature": 1.0, "thresholds": {"a": 0.2, "b": 0.8, "c": 0.5}})
    )
    classifier = FakeClassifier(tmp_path, "multi_label_classification")
    with running(classifier, name="letters") as address:
        browser.open(address, 390)
        label(browser, "b")
        assert text_of(browser, ".decision") == "a, b"
        assert browser.run("document.querySelectorAll('li.decided').length") == 2
    with running(FakeClassifier(tmp_path / "none", "regression"), name="scores") as address:
        browser.open(address, 390)
        label(browser, "four")
        assert float(text_of(browser, ".decision")) == 4


def test_many_labels_are_folded(browser, tmp_path):
    classifier = FakeClassifier(tmp_path)
    classifier.labels = tuple(f"label {index} {'long ' * 20}" for index in range(40))
    classifier._compute_logits = lambda texts, *_: np.array([range(40)] * len(texts), np.float32)
    with running(classifier, name="many") as address:
        browser.open(address, 390)
        label(browser, "a")
        assert browser.run("document.querySelectorAll('article > ol > li').length") == 5
        assert "35 more" in text_of(browser, "summary")
        browser.run("document.querySelector('details').open = true")
        assert browser.run("document.documentElement.scrollWidth") <= 390


def test_the_policy_allows_nothing_from_elsewhere(address):
    answer = httpx.get(address)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"(?:src|href)=\"(?!data:,)", answer.text)
    assert "://" not in answer.text


def test_the_policy_stops_a_script_that_gets_in(browser, address):
    browser.open(address, 390)
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"x = 1\">')")
    browser.run("new Promise((done) => setTimeout(done, 200))")
    assert browser.run("typeof x") == "undefined"
    assert any("Content Security Policy" in json.dumps(each) for each in problems(browser))
