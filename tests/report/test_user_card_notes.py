"""What a person adds to a card stays, wherever it stood and however often the card is written."""

from kdcli.report import user_card_notes
from kdcli.report.user_card_notes import NOTE_BEGIN_MARKER, NOTE_END_MARKER

CARD = "---\nlicense: mit\n---\n\n# Name\n\nAbout.\n\n## Results\n\n0.9\n\n## Citation\n\nNone.\n"


def written_again(card, tmp_path):
    (tmp_path / "README.md").write_text(card)
    user_card_notes.save_card_notes(tmp_path / "README.md", tmp_path / "notes.json")
    return user_card_notes.insert_card_notes(CARD.replace("0.9", "0.8"), tmp_path / "notes.json")


def test_a_card_without_notes_offers_a_place_for_them(tmp_path):
    card = written_again(CARD, tmp_path)
    assert card.endswith(f"{NOTE_BEGIN_MARKER}\n{NOTE_END_MARKER}\n")
    assert written_again(card, tmp_path) == card
    assert not (tmp_path / "notes.json").exists()


def test_a_note_stays_in_its_section(tmp_path):
    mine = f"{NOTE_BEGIN_MARKER}\nSeen in *our* tests: 0.7.\n{NOTE_END_MARKER}\n"
    card = written_again(CARD.replace("## Citation", f"{mine}\n## Citation"), tmp_path)
    assert "0.8" in card
    section = card.partition("## Results")[2].partition("## Citation")[0]
    assert "Seen in *our* tests: 0.7." in section
    assert written_again(card, tmp_path) == card, "it doesn't move, and nothing piles up"


def test_a_section_of_ones_own_stays_at_the_end(tmp_path):
    mine = f"{NOTE_BEGIN_MARKER}\n## Contact\n\nMe.\n{NOTE_END_MARKER}\n"
    card = written_again(f"{CARD}\n{mine}", tmp_path)
    assert card.count("## Contact\n\nMe.") == 1
    assert written_again(card, tmp_path) == card


def test_a_note_whose_section_is_gone_goes_to_the_end(tmp_path):
    mine = f"## Old\n\n{NOTE_BEGIN_MARKER}\nStill true.\n{NOTE_END_MARKER}\n"
    assert written_again(f"{CARD}\n{mine}", tmp_path).rstrip().endswith(NOTE_END_MARKER)


def test_notes_outlive_the_card(tmp_path):
    written_again(
        f"{CARD}\n{NOTE_BEGIN_MARKER}\nMine.\n{NOTE_END_MARKER}\n",
        tmp_path,
    )
    (tmp_path / "README.md").unlink()
    user_card_notes.save_card_notes(tmp_path / "README.md", tmp_path / "notes.json")
    assert "Mine." in user_card_notes.insert_card_notes(CARD, tmp_path / "notes.json")


def test_a_note_that_is_taken_out_is_gone(tmp_path):
    card = written_again(
        f"{CARD}\n{NOTE_BEGIN_MARKER}\nMine.\n{NOTE_END_MARKER}\n",
        tmp_path,
    )
    assert "Mine." not in written_again(card.replace("Mine.\n", ""), tmp_path)


NAMED = CARD.replace("license: mit", "license: mit\nname: <!-- yours -->").replace(
    "About.", "About <!-- yours -->\n`<!-- /yours -->`, a label."
)


def test_a_name_that_looks_like_a_mark_is_no_note(tmp_path):
    (tmp_path / "README.md").write_text(f"{NAMED}\n{NOTE_BEGIN_MARKER}\nMine.\n{NOTE_END_MARKER}\n")
    for _ in range(3):
        user_card_notes.save_card_notes(tmp_path / "README.md", tmp_path / "notes.json")
        card = user_card_notes.insert_card_notes(NAMED, tmp_path / "notes.json")
        (tmp_path / "README.md").write_text(card)
    note = f"{NOTE_BEGIN_MARKER}\nMine.\n{NOTE_END_MARKER}\n"
    assert card == f"{NAMED.rstrip()}\n\n{note}"
