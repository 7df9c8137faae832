"""What CI systems are handed, read by their parsers' rules."""

import re
from xml.etree import ElementTree

import pytest

from kdcli.evaluation.ci import formats
from kdcli.evaluation.ci.quality_gates import GateResult, parse_quality_gate

ODD = 'runs/50%:a,b\n"<&>\x1b|`'
CHECKS = [
    GateResult(
        parse_quality_gate("--fail-under", "test.accuracy=0.9"), "student", "test", 0.95, True
    ),
    GateResult(
        parse_quality_gate("--fail-under", "test.accuracy.low=0.9"), ODD, "test", 0.8, False
    ),
    GateResult(parse_quality_gate("--fail-over", "megabytes=5"), "student", None, 9.0, False),
]

# What the runner's own parser does with a line: see its ActionCommand.TryParseV2.
COMMAND = re.compile(r"::(?P<name>[a-z-]+)(?: (?P<properties>[^:]*))?::(?P<data>.*)")


def runner(line):
    """A workflow command as GitHub's runner understands it."""
    found = COMMAND.fullmatch(line)
    assert found, line
    properties = dict(pair.split("=", 1) for pair in found["properties"].split(","))
    return (
        found["name"],
        {name: unescape(unescape(value, {"%3A": ":", "%2C": ","})) for name, value in
         properties.items()},
        unescape(found["data"]),
    )  # fmt: skip


def unescape(text, codes=None):
    for code, char in (codes or {"%0D": "\r", "%0A": "\n", "%25": "%"}).items():
        text = text.replace(code, char)
    return text


def test_each_missed_gate_is_an_annotation_that_reads_as_it_was_said():
    lines = formats.github_annotations(CHECKS).splitlines()
    assert len(lines) == 2
    for line, check in zip(lines, CHECKS[1:], strict=True):
        assert runner(line) == ("error", {"title": str(check.gate)}, str(check))


def test_nothing_missed_is_no_annotation():
    assert formats.github_annotations(CHECKS[:1]) == ""


def test_junit_has_a_case_for_each_gate():
    root = ElementTree.fromstring(formats.junit_xml(CHECKS).encode())
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    for node in (root, suite):
        assert (node.get("tests"), node.get("failures"), node.get("errors")) == ("3", "2", "0")
    cases = list(suite)
    assert [case.get("name") for case in cases] == [str(check.gate) for check in CHECKS]
    assert cases[0].find("failure") is None
    assert cases[0].get("classname") == "kd.student.test"
    for case, check in zip(cases[1:], CHECKS[1:], strict=True):
        # What XML can't hold at all is replaced.
        assert case.find("failure").text == str(check).replace("\x1b", "\N{REPLACEMENT CHARACTER}")
        assert case.find("failure").get("type") == "GateMissed"


def test_junit_without_gates_is_well_formed():
    root = ElementTree.fromstring(formats.junit_xml([]).encode())
    assert root.get("tests") == "0"


@pytest.fixture
def evaluation():
    figures = {"accuracy": 0.8, "ece": 0.1, "intervals": {"accuracy": (0.7, 0.9)}, "against": {}}
    return {
        "task": "single_label_classification",
        "labels_from": "data",
        "examples": {"test": 10},
        "models": [
            {"name": ODD, "reference": None, "settings": None, "parameters": 1e6, "megabytes": 4.0,
             "latency_ms": {"p50": 1.0, "p95": 2.0}, "texts_per_second": 50.0,
             "splits": {"test": figures}},
        ],
    }  # fmt: skip


def test_the_summary_s_tables_hold_together(evaluation):
    text = formats.github_step_summary(evaluation, CHECKS)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [len(re.split(r"(?<!\\)\|", line)) - 2 for line in lines]
    assert cells == [2] * (len(lines) - 5) + [3] * 5
    assert "80.00 ± 10.00 %" in text
    assert "✅" in text
    assert text.count("❌") == 2
    assert "<&" not in text.replace("\\<", "")
