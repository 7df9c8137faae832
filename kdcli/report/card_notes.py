"""What a person wrote into a card, kept when the card is written again.

A note stands between two marks, under whatever heading. Notes outlive the student's folder, with
the card in it, in a file of the run's own.
"""

import json
import re
from pathlib import Path

from kdcli.safe_files import write_text_atomically

NOTE_BEGIN_MARKER = (
    "<!-- yours: what stands between these marks stays when the card is written again -->"
)
NOTE_END_MARKER = "<!-- /yours -->"

# On lines of their own: in the middle of one they are a name that a stranger gave to something.
_NOTE = re.compile(r"^<!-- yours\b[^>\n]*-->\n(.*?)^<!-- /yours -->$\n?", re.DOTALL | re.MULTILINE)
_METADATA = re.compile(r"---\n.*?^---$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} .+$", re.MULTILINE)


def save_card_notes(card_path: Path, notes_path: Path) -> None:
    """Put the notes of a card, where there is one, into the file `notes_path`."""
    if not card_path.is_file():
        return
    whole = card_path.read_text(encoding="utf-8", errors="replace")
    metadata = _METADATA.match(whole)
    text = whole[metadata.end() :] if metadata else whole
    found = [
        (headings[-1] if (headings := _HEADING.findall(text[: match.start()])) else "", match[1])
        for match in _NOTE.finditer(text)
        if match[1].strip()
    ]
    if found:
        write_text_atomically(notes_path, json.dumps(found, ensure_ascii=False, indent=2) + "\n")
    else:
        notes_path.unlink(missing_ok=True)


def insert_card_notes(card_text: str, notes_path: Path) -> str:
    """The card with its notes: at the end of the section that they stood in, or at its own end."""
    kept = json.loads(notes_path.read_text(encoding="utf-8")) if notes_path.is_file() else []
    for heading, note in kept:
        marked = f"{NOTE_BEGIN_MARKER}\n{note}{NOTE_END_MARKER}\n"
        place = re.search(rf"^{re.escape(heading)}$", card_text, re.MULTILINE) if heading else None
        following = place and _HEADING.search(card_text, place.end())
        if place and following:
            card_text = (
                f"{card_text[: following.start()]}{marked}\n{card_text[following.start() :]}"
            )
        else:
            card_text = f"{card_text.rstrip()}\n\n{marked}"
    return (
        card_text if kept else f"{card_text.rstrip()}\n\n{NOTE_BEGIN_MARKER}\n{NOTE_END_MARKER}\n"
    )
