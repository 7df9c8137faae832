"""What CI systems show of a comparison: GitHub's annotations and step summary, JUnit's XML."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from kdcli.evaluation import summary
from kdcli.evaluation.gates import Check

# What XML 1.0 has no way to write.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def annotations(checks: Iterable[Check]) -> str:
    """A workflow command for each gate that was missed, a line each."""
    return "\n".join(
        f"::error title={_property(str(check.gate))}::{_data(str(check))}"
        for check in checks
        if not check.passed
    )


def step_summary(evaluation: Mapping[str, Any], checks: Sequence[Check]) -> str:
    """Table, remarks and gates, as GitHub's Markdown."""
    header = ["", *(model["name"] for model in evaluation["models"])]
    lines = [_row(header), _row(["---"] + ["---:"] * (len(header) - 1))]
    lines += map(_row, summary.rows(evaluation))
    lines += ["", *(f"- {_cell(remark)}" for remark in summary.remarks(evaluation))]
    if checks:
        lines += ["", _row(["", "gate", "found"]), _row(["---"] * 3)]
        lines += [_row(["✅" if c.passed else "❌", str(c.gate), str(c)]) for c in checks]
    return "\n".join(["## kd evaluate", "", *lines, ""])


def junit(checks: Sequence[Check]) -> str:
    """A test case for each gate, model and split, in the form that CI systems read."""
    missed = sum(not check.passed for check in checks)
    about = {
        "name": "kd evaluate",
        "tests": str(len(checks)),
        "failures": str(missed),
        "errors": "0",
        "skipped": "0",
    }
    suites = ElementTree.Element("testsuites", about)
    suite = ElementTree.SubElement(suites, "testsuite", about)
    for check in checks:
        where = ".".join(part for part in ("kd", check.model, check.split) if part)
        case = ElementTree.SubElement(
            suite, "testcase", classname=_xml(where), name=_xml(str(check.gate)), time="0"
        )
        if check.passed:
            ElementTree.SubElement(case, "system-out").text = _xml(str(check))
        else:
            failure = {"type": "GateMissed", "message": _xml(str(check))}
            ElementTree.SubElement(case, "failure", failure).text = _xml(str(check))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True)


def _data(text: str) -> str:
    """Escaped as the runner's own toolkit does it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    one_line = " ".join(text.split())
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", one_line)


def _xml(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
