"""Notes that people add to a model card, kept when the card is written again.

A note stands between two markers, under any heading. Notes are saved in a file of the run folder,
so that they survive when the student's folder, with the card in it, is replaced.
"""

import json
import re
from pathlib import Path

from kdcli.safe_files import write_text_atomically

NOTE_BEGIN_MARKER = (
    "<!-- yours: what stands between these marks stays when the card is written again -->"
)
NOTE_END_MARKER = "<!-- /yours -->"

# Markers count on lines of their own only: within a line they may be part of a name in the data.
_NOTE = re.compile(r"^<!-- yours\b[^>\n]*-->\n(.*?)^<!-- /yours -->$\n?", re.DOTALL | re.MULTILINE)
_METADATA = re.compile(r"---\n.*?^---$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} .+$", re.MULTILINE)


def save_card_notes(card_path: Path, notes_path: Path) -> None:
    """Save the notes of a card, if the card exists, in the file `notes_path`."""
    if not card_path.is_file():
        return
    text = card_path.read_text(encoding="utf-8", errors="replace")
    if metadata := _METADATA.match(text):
        text = text[metadata.end() :]
    notes = [
        (headings[-1] if (headings := _HEADING.findall(text[: match.start()])) else "", match[1])
        for match in _NOTE.finditer(text)
        if match[1].strip()
    ]
    if notes:
        write_text_atomically(notes_path, json.dumps(notes, ensure_ascii=False, indent=2) + "\n")
    else:
        notes_path.unlink(missing_ok=True)


def insert_card_notes(card_text: str, notes_path: Path) -> str:
    """Insert saved notes at the end of their section, or at the end of the card."""
    notes = json.loads(notes_path.read_text(encoding="utf-8")) if notes_path.is_file() else []
    for heading, note in notes:
        marked = f"{NOTE_BEGIN_MARKER}\n{note}{NOTE_END_MARKER}\n"
        section = (
            re.search(rf"^{re.escape(heading)}$", card_text, re.MULTILINE) if heading else None
        )
        following = section and _HEADING.search(card_text, section.end())
        if following:
            card_text = (
                f"{card_text[: following.start()]}{marked}\n{card_text[following.start() :]}"
            )
        else:
            card_text = f"{card_text.rstrip()}\n\n{marked}"
    return (
        card_text if notes else f"{card_text.rstrip()}\n\n{NOTE_BEGIN_MARKER}\n{NOTE_END_MARKER}\n"
    )
