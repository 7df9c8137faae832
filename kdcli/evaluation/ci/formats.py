"""What CI systems show of a comparison: GitHub's annotations and step summary, JUnit's XML."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from kdcli.evaluation.ci.quality_gates import GateResult
from kdcli.evaluation.output import comparison_summary

# What XML 1.0 has no way to write.
_INVALID_XML_CHARS = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def github_annotations(gate_results: Iterable[GateResult]) -> str:
    """A workflow command for each gate that was missed, a line each."""
    return "\n".join(
        f"::error title={_escape_command_property(str(check.gate))}::{_escape_command_data(str(check))}"
        for check in gate_results
        if not check.passed
    )


def github_step_summary(evaluation: Mapping[str, Any], gate_results: Sequence[GateResult]) -> str:
    """Table, remarks and gates, as GitHub's Markdown."""
    header = ["", *(model["name"] for model in evaluation["models"])]
    lines = [_markdown_row(header), _markdown_row(["---"] + ["---:"] * (len(header) - 1))]
    lines += map(_markdown_row, comparison_summary.comparison_table_rows(evaluation))
    lines += [
        "",
        *(
            f"- {_escape_markdown_cell(remark)}"
            for remark in comparison_summary.comparison_remarks(evaluation)
        ),
    ]
    if gate_results:
        lines += ["", _markdown_row(["", "gate", "found"]), _markdown_row(["---"] * 3)]
        lines += [
            _markdown_row(["✅" if c.passed else "❌", str(c.gate), str(c)]) for c in gate_results
        ]
    return "\n".join(["## kd evaluate", "", *lines, ""])


def junit_xml(gate_results: Sequence[GateResult]) -> str:
    """A test case for each gate, model and split, in the form that CI systems read."""
    missed = sum(not check.passed for check in gate_results)
    about = {
        "name": "kd evaluate",
        "tests": str(len(gate_results)),
        "failures": str(missed),
        "errors": "0",
        "skipped": "0",
    }
    suites = ElementTree.Element("testsuites", about)
    suite = ElementTree.SubElement(suites, "testsuite", about)
    for check in gate_results:
        where = ".".join(part for part in ("kd", check.model, check.split) if part)
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_replace_invalid_xml(where),
            name=_replace_invalid_xml(str(check.gate)),
            time="0",
        )
        if check.passed:
            ElementTree.SubElement(case, "system-out").text = _replace_invalid_xml(str(check))
        else:
            failure = {"type": "GateMissed", "message": _replace_invalid_xml(str(check))}
            ElementTree.SubElement(case, "failure", failure).text = _replace_invalid_xml(str(check))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True)


def _escape_command_data(text: str) -> str:
    """Escaped as the runner's own toolkit does it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_command_property(text: str) -> str:
    return _escape_command_data(text).replace(":", "%3A").replace(",", "%2C")


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escape_markdown_cell, cells))} |"


def _escape_markdown_cell(text: str) -> str:
    one_line = " ".join(text.split())
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", one_line)


def _replace_invalid_xml(text: str) -> str:
    return _INVALID_XML_CHARS.sub("\N{REPLACEMENT CHARACTER}", text)
