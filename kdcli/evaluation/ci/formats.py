"""Results for CI systems: GitHub annotations and step summary, JUnit XML."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from kdcli.evaluation.ci.quality_gates import GateResult
from kdcli.evaluation.output import comparison_summary

# Characters that XML 1.0 cannot contain.
_INVALID_XML_CHARS = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def github_annotations(gate_results: Iterable[GateResult]) -> str:
    """Return a workflow command, on a line of its own, for each gate that failed."""
    return "\n".join(
        f"::error title={_escape_command_property(str(result.gate))}::"
        f"{_escape_command_data(str(result))}"
        for result in gate_results
        if not result.passed
    )


def github_step_summary(evaluation: Mapping[str, Any], gate_results: Sequence[GateResult]) -> str:
    """Format table, remarks and gates as GitHub Markdown."""
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
        lines += ["", _markdown_row(["", "gate", "result"]), _markdown_row(["---"] * 3)]
        lines += [
            _markdown_row(["✅" if r.passed else "❌", str(r.gate), str(r)]) for r in gate_results
        ]
    return "\n".join(["## kd evaluate", "", *lines, ""])


def junit_xml(gate_results: Sequence[GateResult]) -> str:
    """Return a JUnit test case for each gate, model and split."""
    attributes = {
        "name": "kd evaluate",
        "tests": str(len(gate_results)),
        "failures": str(sum(not result.passed for result in gate_results)),
        "errors": "0",
        "skipped": "0",
    }
    suites = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(suites, "testsuite", attributes)
    for result in gate_results:
        class_name = ".".join(part for part in ("kd", result.model, result.split) if part)
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_replace_invalid_xml(class_name),
            name=_replace_invalid_xml(str(result.gate)),
            time="0",
        )
        if result.passed:
            ElementTree.SubElement(case, "system-out").text = _replace_invalid_xml(str(result))
        else:
            failure = {"type": "GateMissed", "message": _replace_invalid_xml(str(result))}
            ElementTree.SubElement(case, "failure", failure).text = _replace_invalid_xml(
                str(result)
            )
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True)


def _escape_command_data(text: str) -> str:
    """Escape as GitHub's toolkit does."""
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
