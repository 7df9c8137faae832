"""What a person wrote into a card, kept when the card is written again.

A note stands between two marks, under whatever heading. Notes outlive the student's folder, with
the card in it, in a file of the run's own.
"""

import json
import re
from pathlib import Path

from kdcli.safe_files import write_whole

BEGIN = "<!-- yours: what stands between these marks stays when the card is written again -->"
END = "<!-- /yours -->"

# On lines of their own: in the middle of one they are a name that a stranger gave to something.
_NOTE = re.compile(r"^<!-- yours\b[^>\n]*-->\n(.*?)^<!-- /yours -->$\n?", re.DOTALL | re.MULTILINE)
_METADATA = re.compile(r"---\n.*?^---$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} .+$", re.MULTILINE)


def collect(card: Path, notes: Path) -> None:
    """Put the notes of a card, where there is one, into the file `notes`."""
    if not card.is_file():
        return
    whole = card.read_text(encoding="utf-8", errors="replace")
    metadata = _METADATA.match(whole)
    text = whole[metadata.end() :] if metadata else whole
    found = [
        (headings[-1] if (headings := _HEADING.findall(text[: match.start()])) else "", match[1])
        for match in _NOTE.finditer(text)
        if match[1].strip()
    ]
    if found:
        write_whole(notes, json.dumps(found, ensure_ascii=False, indent=2) + "\n")
    else:
        notes.unlink(missing_ok=True)


def insert(card: str, notes: Path) -> str:
    """The card with its notes: at the end of the section that they stood in, or at its own end."""
    kept = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else []
    for heading, note in kept:
        marked = f"{BEGIN}\n{note}{END}\n"
        place = re.search(rf"^{re.escape(heading)}$", card, re.MULTILINE) if heading else None
        following = place and _HEADING.search(card, place.end())
        if place and following:
            card = f"{card[: following.start()]}{marked}\n{card[following.start() :]}"
        else:
            card = f"{card.rstrip()}\n\n{marked}"
    return card if kept else f"{card.rstrip()}\n\n{BEGIN}\n{END}\n"
