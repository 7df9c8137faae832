"""What a look at the data found: a table for 80 columns, and what deserves attention in words."""

from collections.abc import Iterator, Mapping
from typing import Any

Document = Mapping[str, Any]

_WIDEST = 15
_MANY = 10
_SHOWN = 5
_FEW_UNKNOWN = 0.01


def rows(document: Document) -> list[list[str]]:
    """The table: what a row is of, then a cell for each split; see `kdcli.stages.survey`."""
    splits = [*document["splits"].values()]
    unit = next((s["lengths"]["unit"] for s in splits if s["lengths"]), "words")
    found = [
        ["texts", *(f"{s['rows']:,}" for s in splits)],
        ["  without text", *(f"{s['empty']['texts']:,}" for s in splits)],
        ["  without label", *(f"{s['unlabelled']['texts']:,}" for s in splits)],
        ["  of 1 or 2 characters", *(f"{s['short']:,}" for s in splits)],
        ["  repeats within", *(f"{s['duplicates']:,}" for s in splits)],
        ["  labelled variously", *(f"{s['conflicting']:,}" for s in splits)],
        *_leaks(document),
        ["labels", *(f"{s['labels']['count']:,}" for s in splits)],
        *_balance([s["labels"] for s in splits]),
        [f"{unit} in a text", *("" for _ in splits)],
        *_lengths([s["lengths"] for s in splits]),
        ["script", *("" for _ in splits)],
    ]
    scripts = dict.fromkeys(script for s in splits for script in s["scripts"])
    for script in [*scripts][:_SHOWN]:
        found.append([f"  {script}", *(_percent(s["scripts"].get(script, 0.0)) for s in splits)])
    return found


def remarks(document: Document) -> list[str]:
    """What deserves attention, a sentence or two for each; none where all is well."""
    return [*_faults(document), *_repeated(document), *_of_labels(document), *_of_lengths(document)]


def _faults(document: Document) -> Iterator[str]:
    for part, split in document["splits"].items():
        for kind, what in (("empty", "no text"), ("unlabelled", "no label")):
            if count := split[kind]["texts"]:
                yield (
                    f"{part}: {_rows(count)} {what}, the first one at {split[kind]['first']}. "
                    "A run refuses that: mend or delete them."
                )


def _repeated(document: Document) -> Iterator[str]:
    for leak in document["leaks"]:
        if leak["texts"]:
            other = leak["with_other_labels"]
            but = f", {other:,} of them labelled otherwise" if other else ""
            yield (
                f"{leak['texts']:,} texts of {leak['to']} are in {leak['from']} as well{but}: "
                "measured on these, a model looks better than it is."
            )
    if count := document["conflicting"]:
        yield (
            f"{count:,} texts are labelled in more than one way: settle on one, or delete them. "
            "(Case, punctuation and spaces make no difference here.)"
        )


def _of_labels(document: Document) -> Iterator[str]:
    missing = document["labels"]
    if names := missing["not_in_train"]:
        yield f"Not in train, so that nothing can learn them: {_listed(names)}."
    if names := missing["nowhere"]:
        yield f"Labels that no text has: {_listed(names)}."
    labels = document["splits"].get("train", {"labels": {"count": 0}})["labels"]
    if labels["count"] == 1:
        yield "train has one label only: nothing can be learnt from that."
    if labels["count"] and labels["rarest"]["texts"] == 1:
        yield f"train has one text only of {labels['rarest']['label']}."
    if labels["count"] and labels["ratio"] >= _MANY:
        most, rarest = labels["most_frequent"], labels["rarest"]
        yield (
            f"train has {labels['ratio']:,.0f} texts of {most['label']} for each of "
            f"{rarest['label']}: look at macro F1 beside accuracy."
        )
    if "validation" not in document["splits"] and labels["count"]:
        yield "There is no validation split: a run sets a part of train aside."


def _of_lengths(document: Document) -> Iterator[str]:
    for part, split in document["splits"].items():
        found = split["lengths"]
        if not found:
            continue
        if found["over_limit"]:
            least = "" if found["unit"] == "tokens" else "at least "
            yield (
                f"{part}: {least}{_percent(found['over_limit'])} of the texts are longer than "
                f"{found['limit']} tokens and will be cut there."
            )
        if found["unknown"] > _FEW_UNKNOWN:
            yield (
                f"{part}: the teacher doesn't know {_percent(found['unknown'])} of the tokens. "
                "Is it a model of this language?"
            )


def _leaks(document: Document) -> Iterator[list[str]]:
    found = {(leak["from"], leak["to"]): leak["texts"] for leak in document["leaks"]}
    for first in dict.fromkeys(leak["from"] for leak in document["leaks"]):
        cells = (found.get((first, part)) for part in document["splits"])
        yield [f"  in {first} as well", *("" if c is None else f"{c:,}" for c in cells)]


def _balance(labels: list[Document]) -> Iterator[list[str]]:
    for title, key in (("most frequent", "most_frequent"), ("rarest", "rarest")):
        cells = [of_split.get(key) for of_split in labels]
        yield [f"  {title}", *(_short(c["label"]) if c else "" for c in cells)]
        yield ["    texts", *(f"{c['texts']:,}" if c else "" for c in cells)]
    yield ["  ratio of these", *(f"{s['ratio']:,.1f}" if s["count"] else "" for s in labels)]
    yield ["  entropy, bits", *(f"{s['entropy']:.2f}" if s["count"] else "" for s in labels)]
    yield ["  of the most", *(_percent(s["evenness"]) if s["count"] else "" for s in labels)]


def _lengths(lengths: list[Document | None]) -> Iterator[list[str]]:
    for title, key in (("median", "median"), ("95 % under", "p95"), ("longest", "longest")):
        yield [f"  {title}", *(f"{s[key]:,.0f}" if s else "" for s in lengths)]
    if limit := next((s["limit"] for s in lengths if s and s["limit"]), None):
        yield [f"  over {limit:,}", *(_percent(s["over_limit"]) if s else "" for s in lengths)]
    if any(s and s["unknown"] for s in lengths):
        yield ["  unknown", *(_percent(s["unknown"]) if s else "" for s in lengths)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _rows(count: int) -> str:
    return "1 row has" if count == 1 else f"{count:,} rows have"


def _short(name: str) -> str:
    return name if len(name) <= _WIDEST else f"{name[: _WIDEST - 1]}…"


def _listed(names: list[str]) -> str:
    more = f", … ({len(names):,})" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
