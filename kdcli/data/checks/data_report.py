"""Report of a data check: a table for 80 columns, and warnings in words."""

from collections.abc import Iterator, Mapping
from typing import Any

from kdcli.sanitize import abbreviate_list, count_noun

DataCheckDocument = Mapping[str, Any]

_MAX_LABEL_WIDTH = 15
_IMBALANCE_RATIO = 10
_MAX_SHOWN = 5
_MAX_UNKNOWN_SHARE = 0.01


def summary_table_rows(data_check: DataCheckDocument) -> list[list[str]]:
    """Rows of the summary table: a title and a cell for each split; see `kdcli.api.data_check`."""
    splits = [*data_check["splits"].values()]
    unit = next((s["lengths"]["unit"] for s in splits if s["lengths"]), "words")
    rows = [
        ["texts", *(f"{s['rows']:,}" for s in splits)],
        ["  without text", *(f"{s['empty']['texts']:,}" for s in splits)],
        ["  without label", *(f"{s['unlabelled']['texts']:,}" for s in splits)],
        ["  of 1 or 2 characters", *(f"{s['short']:,}" for s in splits)],
        ["  repeats within", *(f"{s['duplicates']:,}" for s in splits)],
        ["  labelled variously", *(f"{s['conflicting']:,}" for s in splits)],
        *_leakage_rows(data_check),
        ["labels", *(f"{s['labels']['count']:,}" for s in splits)],
        *_label_balance_rows([s["labels"] for s in splits]),
        [f"{unit} in a text", *("" for _ in splits)],
        *_text_length_rows([s["lengths"] for s in splits]),
        ["script", *("" for _ in splits)],
    ]
    scripts = dict.fromkeys(script for s in splits for script in s["scripts"])
    for script in [*scripts][:_MAX_SHOWN]:
        rows.append(
            [f"  {script}", *(_format_percent(s["scripts"].get(script, 0.0)) for s in splits)]
        )
    return rows


def data_warnings(data_check: DataCheckDocument) -> list[str]:
    """Warnings about the data, one or two sentences each."""
    return [
        *_missing_value_warnings(data_check),
        *_duplicate_warnings(data_check),
        *_label_warnings(data_check),
        *_text_length_warnings(data_check),
    ]


def _missing_value_warnings(data_check: DataCheckDocument) -> Iterator[str]:
    for part, split in data_check["splits"].items():
        for kind, what in (("empty", "no text"), ("unlabelled", "no label")):
            if count := split[kind]["texts"]:
                yield (
                    f"{part}: {_count_rows_phrase(count)} {what}, the first one at "
                    f"{split[kind]['first']}. A run refuses that: mend or delete them."
                )


def _duplicate_warnings(data_check: DataCheckDocument) -> Iterator[str]:
    for leak in data_check["leaks"]:
        if leak["texts"]:
            relabeled = leak["with_other_labels"]
            of_these = f", {relabeled:,} of them labelled otherwise" if relabeled else ""
            yield (
                f"{count_noun(leak['texts'], 'text')} of {leak['to']} found in {leak['from']} as "
                f"well{of_these}: scores on them are optimistic."
            )
    if count := data_check["conflicting"]:
        yield (
            f"{count_noun(count, 'text')} labelled in more than one way: settle on one, or "
            "delete them. (Case, punctuation and spaces make no difference here.)"
        )


def _label_warnings(data_check: DataCheckDocument) -> Iterator[str]:
    missing = data_check["labels"]
    if names := missing["not_in_train"]:
        yield f"Not in train, so that nothing can learn them: {abbreviate_list(names, _MAX_SHOWN)}."
    if names := missing["nowhere"]:
        yield f"Labels that no text has: {abbreviate_list(names, _MAX_SHOWN)}."
    labels = data_check["splits"].get("train", {"labels": {"count": 0}})["labels"]
    if labels["count"] == 1:
        yield "train has one label only: nothing can be learnt from that."
    if labels["count"] and labels["rarest"]["texts"] == 1:
        yield f"train has only one text of {labels['rarest']['label']}."
    if labels["count"] and labels["ratio"] >= _IMBALANCE_RATIO:
        most, rarest = labels["most_frequent"], labels["rarest"]
        yield (
            f"train has {labels['ratio']:,.0f} texts of {most['label']} for each of "
            f"{rarest['label']}: look at macro F1 beside accuracy."
        )
    if "validation" not in data_check["splits"] and labels["count"]:
        yield "There is no validation split: a run sets a part of train aside."


def _text_length_warnings(data_check: DataCheckDocument) -> Iterator[str]:
    for part, split in data_check["splits"].items():
        lengths = split["lengths"]
        if not lengths:
            continue
        if lengths["over_limit"]:
            least = "" if lengths["unit"] == "tokens" else "at least "
            yield (
                f"{part}: {least}{_format_percent(lengths['over_limit'])} of the texts are longer "
                f"than {lengths['limit']} tokens and will be cut there."
            )
        if lengths["unknown"] > _MAX_UNKNOWN_SHARE:
            yield (
                f"{part}: the teacher doesn't know {_format_percent(lengths['unknown'])} of the "
                "tokens. Is it a model of this language?"
            )


def _leakage_rows(data_check: DataCheckDocument) -> Iterator[list[str]]:
    counts = {(leak["from"], leak["to"]): leak["texts"] for leak in data_check["leaks"]}
    for first in dict.fromkeys(leak["from"] for leak in data_check["leaks"]):
        cells = (counts.get((first, part)) for part in data_check["splits"])
        yield [f"  in {first} as well", *("" if c is None else f"{c:,}" for c in cells)]


def _label_balance_rows(labels: list[DataCheckDocument]) -> Iterator[list[str]]:
    for title, key in (("most frequent", "most_frequent"), ("rarest", "rarest")):
        cells = [of_split.get(key) for of_split in labels]
        yield [f"  {title}", *(_abbreviate(c["label"]) if c else "" for c in cells)]
        yield ["    texts", *(f"{c['texts']:,}" if c else "" for c in cells)]
    yield ["  ratio of these", *(f"{s['ratio']:,.1f}" if s["count"] else "" for s in labels)]
    yield ["  entropy, bits", *(f"{s['entropy']:.2f}" if s["count"] else "" for s in labels)]
    yield ["  balance", *(_format_percent(s["evenness"]) if s["count"] else "" for s in labels)]


def _text_length_rows(lengths: list[DataCheckDocument | None]) -> Iterator[list[str]]:
    for title, key in (("median", "median"), ("95th percentile", "p95"), ("longest", "longest")):
        yield [f"  {title}", *(f"{s[key]:,.0f}" if s else "" for s in lengths)]
    if limit := next((s["limit"] for s in lengths if s and s["limit"]), None):
        yield [
            f"  over {limit:,}",
            *(_format_percent(s["over_limit"]) if s else "" for s in lengths),
        ]
    if any(s and s["unknown"] for s in lengths):
        yield ["  unknown", *(_format_percent(s["unknown"]) if s else "" for s in lengths)]


def _format_percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _count_rows_phrase(count: int) -> str:
    return "1 row has" if count == 1 else f"{count:,} rows have"


def _abbreviate(name: str) -> str:
    return name if len(name) <= _MAX_LABEL_WIDTH else f"{name[: _MAX_LABEL_WIDTH - 1]}…"
