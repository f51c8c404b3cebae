"""Cards: the README.md of a repository, made from a template, read, and kept where somebody has edited it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # comes with huggingface_hub
from huggingface_hub import CardData, EvalResultEntry, RepoCard, eval_result_entries_to_yaml

from ad_hf.folders import write_whole

TAG = "algorithm-distillation"  # on every card, so that our repositories can be found
MAX_CARD = 2**20  # bytes of a README.md


def card_template(name: str) -> Path:
    """The template `name` of the cards/ folder: inside the installed package, or beside it in a checkout.

    Raises:
        FileNotFoundError: if the installation is incomplete.
    """
    package = Path(__file__).parent
    for folder in (package / "cards", package.parent / "cards"):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"the template {name} is missing beside {package}: install ad-hf again")


def make_card(template: str, metadata: CardData, **values: Any) -> RepoCard:
    """Fill a template of cards/.

    The entry `ad_hf` of the metadata is given the hash of the text, by which a later edit is noticed.

    Args:
        template: the file's name.
        metadata: the YAML at the top.
        values: what the template speaks of.
    """
    card = RepoCard.from_template(metadata, template_path=str(card_template(template)), **values)
    metadata["ad_hf"] = {**(metadata.get("ad_hf") or {}), "text": _hash(card.text)}
    card.data = metadata
    return card


def load_card(path: Path) -> RepoCard:
    """A README.md.

    Raises:
        ValueError: if the YAML at the top cannot be read.
    """
    try:
        if path.stat().st_size > MAX_CARD:
            raise ValueError(f"it is larger than {MAX_CARD} bytes")
        if re.search(rb"[\r\n]{100}", path.read_bytes()):  # to find the end of the YAML takes its square
            raise ValueError("it has a hundred empty lines")
        card = RepoCard.load(path, ignore_metadata_errors=False)
        _check_entries(vars(card.data))
        return card
    except (
        ValueError,
        TypeError,
        RecursionError,
        yaml.YAMLError,
    ) as error:  # TypeError: a name that is no text
        reason = " ".join(str(error).split())
        raise ValueError(f"the metadata at the top of {path} cannot be read: {reason}") from error


def _check_entries(metadata: Any) -> None:
    """Refuse metadata of which a few lines stand for billions of entries, by way of YAML's aliases."""
    entries, count = [metadata], 0
    while entries:
        entry, count = entries.pop(), count + 1
        if count > MAX_CARD:
            raise ValueError(f"it stands for more than {MAX_CARD} entries")
        if isinstance(entry, dict | list):
            entries += entry.values() if isinstance(entry, dict) else entry


def save_card(card: RepoCard, path: Path) -> None:
    """Write a README.md: whole, or not at all."""
    write_whole(path, str(card))


def about(card: RepoCard | None) -> dict[str, Any]:
    """What ad-hf has noted in a card's metadata; empty where it has not."""
    noted = None if card is None else card.data.to_dict().get("ad_hf")
    return noted if isinstance(noted, dict) else {}


def is_edited(card: RepoCard) -> bool:
    """Whether somebody has changed the text of a card since it was made, or made it by hand."""
    return bool(card.text.strip()) and about(card).get("text") != _hash(card.text)


def keep_edits(
    ours: RepoCard, theirs: RepoCard | None, fixed: tuple[str, ...], made: RepoCard | None = None
) -> RepoCard:
    """Our new card, with what others have changed in the one that is there.

    Args:
        ours: the new card.
        theirs: the card that is there. If its text was edited, it is kept.
        fixed: entries of the metadata that have to be ours; of all others theirs are kept.
        made: the new card as `make_card` made it, where `ours` has been edited since: what theirs has in
            common with it was not changed by others.
    """
    if theirs is None:
        return ours
    unchanged = (made or ours).data.to_dict()
    metadata = ours.data.to_dict()
    for name, value in theirs.data.to_dict().items():
        if name not in fixed and unchanged.get(name) != value:
            metadata[name] = value
    card = RepoCard(str(theirs if is_edited(theirs) else ours))
    card.data = CardData(**metadata)
    return card


def result_file(entries: list[EvalResultEntry]) -> str:
    """What a file in .eval_results/ has to hold."""
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def _hash(text: str) -> str:
    return hashlib.sha256("\n".join(text.split()).encode()).hexdigest()[:16]
