"""Cards: what is written on them comes back, and what people have written on them stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CardData, RepoCard

from ad_hf.cards import about, card_template, is_edited, keep_edits, load_card, make_card, save_card

ROOT = Path(__file__).parent.parent
FIXED = ("configs", "ad_hf")  # entries of the metadata that are ours


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A template in the cards/ of an installed package."""
    folder = tmp_path / "installed" / "ad_hf" / "cards"
    folder.mkdir(parents=True)
    (folder / "card.md").write_text("---\n{{ card_data }}\n---\n\n# {{ title }}\n\n{{ text }}\n")
    monkeypatch.setattr("ad_hf.cards.__file__", str(folder.parent / "cards.py"))
    return "card.md"


def card(text: str = "as made", **metadata: Any) -> RepoCard:
    """A card as it is made; the template is the fixture's."""
    return make_card("card.md", CardData(**metadata), title="Histories", text=text)


# Templates


@pytest.mark.parametrize("path", sorted(ROOT.glob("cards/*.md")), ids=lambda path: path.name)
def test_every_template_is_found_in_a_checkout(path: Path) -> None:
    assert card_template(path.name) == path


def test_templates_are_found_in_an_installed_package(template: str, tmp_path: Path) -> None:
    assert card_template(template) == tmp_path / "installed" / "ad_hf" / "cards" / "card.md"


def test_an_installed_package_does_not_take_templates_from_beside_it(template: str, tmp_path: Path) -> None:
    beside = tmp_path / "installed" / "cards"
    beside.mkdir()
    (beside / template).write_text("of some other package")
    assert card_template(template).parent != beside


def test_a_missing_template_says_what_to_do() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"the template nothing\.md is missing .*: install ad-hf again"
    ):
        card_template("nothing.md")


# Writing and reading


def test_metadata_and_text_come_back_as_they_were(template: str, tmp_path: Path) -> None:
    metadata = {
        "license": "apache-2.0",
        "configs": [{"config_name": "dark-room", "default": True}],
        "ad_hf": {
            "fold": None,
            "learning_rate": 1e-5,
            "discount": 0.9,
            "version": "1.0",
            "words": ["no", "yes", "007", "ä: b #c"],
        },
    }
    path = tmp_path / "README.md"
    save_card(card("Line one.\n\nLine two, ä.", **metadata), path)
    loaded = load_card(path)
    hash_of_text = about(loaded)["text"]
    assert loaded.data.to_dict() == metadata | {"ad_hf": {**metadata["ad_hf"], "text": hash_of_text}}
    assert path.read_text(encoding="utf-8").endswith("---\n\n# Histories\n\nLine one.\n\nLine two, ä.")
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["README.md"]


def test_a_card_that_cannot_be_written_leaves_the_old_one(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "README.md"
    path.write_text("as it was")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # by when a half has been written
    with pytest.raises(OSError, match="No space left"):
        save_card(card(), path)
    assert path.read_text() == "as it was"


@pytest.mark.parametrize("text", ["# Only text\n", "", "---\n---\n", "---\nad_hf: 1\n---\n"])
def test_a_card_of_something_else_notes_nothing(text: str, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    assert about(load_card(path)) == {}


@pytest.mark.parametrize(
    "metadata", [b"a: [", b"a: b: c", b"- a list", b"a: 1\na: @", b"1: one", b"self: 1", b"\xff: 1"]
)
def test_metadata_that_cannot_be_read_is_refused_in_one_line(metadata: bytes, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_bytes(b"---\n" + metadata + b"\n---\n# Text\n")
    with pytest.raises(ValueError, match=rf"^the metadata at the top of {path} cannot be read: [^\n]+$"):
        load_card(path)


# Edits


def edited(before: RepoCard, old: str, new: str) -> RepoCard:
    """A card after somebody has opened it in an editor."""
    assert old in str(before)
    return RepoCard(str(before).replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("as made", "as read", True),
        ("# Histories", "# Histories of mine", True),
        ("license: mit", "license: cc-by-4.0", False),  # entries of the metadata are kept one by one
        ("\n", "\r\n", False),
        ("# Histories\n", "# Histories  \n\n", False),
    ],
)
def test_an_edit_is_a_change_of_words(old: str, new: str, counts: bool, template: str) -> None:
    assert is_edited(edited(card(license="mit"), old, new)) == counts


@pytest.mark.parametrize(("text", "counts"), [("# By hand\n", True), (" \n", False)])
def test_a_text_that_was_not_made_here_is_an_edit_if_it_says_anything(text: str, counts: bool) -> None:
    # The Hub itself makes a card of a licence alone for those who choose one when they make a repository.
    assert is_edited(RepoCard(f"---\nlicense: mit\n---\n{text}")) == counts


def test_a_new_card_replaces_one_that_nobody_has_edited(template: str) -> None:
    kept = keep_edits(card("new"), card("old"), FIXED)
    assert "new" in kept.text
    assert not is_edited(kept)


def test_an_edited_text_stays_and_stays_an_edit(template: str) -> None:
    theirs = edited(card("old"), "# Histories", "# Of mine")
    kept = keep_edits(card("new"), theirs, FIXED)
    assert kept.text.strip() == "# Of mine\n\nold"
    again = keep_edits(card("newer"), RepoCard(str(kept)), FIXED)
    assert again.text == kept.text


def test_metadata_of_others_stays_but_for_what_has_to_be_ours(template: str) -> None:
    theirs = card("old", license="mit", language="en", configs=["old"])
    kept = keep_edits(card("new", license="apache-2.0", tags=["ours"], configs=["new"]), theirs, FIXED)
    metadata = kept.data.to_dict()
    del metadata["ad_hf"]
    assert metadata == {"license": "mit", "language": "en", "tags": ["ours"], "configs": ["new"]}


def test_of_two_edited_cards_the_second_wins_entry_by_entry(template: str) -> None:
    made = card("new", license="apache-2.0", tags=["ours"], language="en")
    here = edited(card("old", license="apache-2.0", tags=["ours"], language="en"), "apache-2.0", "mit")
    there = edited(card("old", license="apache-2.0", tags=["ours"], language="en"), "- ours", "- theirs")
    ours = keep_edits(made, here, FIXED)
    kept = keep_edits(ours, there, FIXED, made).data.to_dict()
    assert (kept["license"], kept["tags"], kept["language"]) == ("mit", ["theirs"], "en")
    there = edited(there, "apache-2.0", "cc-by-4.0")
    assert keep_edits(ours, there, FIXED, made).data.to_dict()["license"] == "cc-by-4.0"


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ("old", "old", "new"),
        ("mine", "old", "mine"),
        ("old", "theirs", "theirs"),
        ("mine", "theirs", "theirs"),
        ("mine", None, "mine"),
    ],
)
def test_the_words_on_the_hub_come_first_then_those_here_then_ours(
    here: str, there: str | None, expected: str, template: str
) -> None:
    made, local = card("new"), edited(card("old"), "old", here)
    remote = None if there is None else edited(card("old"), "old", there)
    kept = keep_edits(keep_edits(made, local, FIXED), remote, FIXED, made)
    assert kept.text.split()[-1] == expected
