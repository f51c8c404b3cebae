"""Cards, and where their templates lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # comes with huggingface_hub
from huggingface_hub import CardData, RepoCard


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


def write_card(path: Path, template: str, metadata: dict[str, Any], /, **values: Any) -> None:
    """Fill a template of cards/ and write it: whole, or not at all.

    Args:
        path: the README.md to write.
        template: the file's name in cards/.
        metadata: the YAML at the top.
        values: what the template speaks of.
    """
    card = RepoCard.from_template(CardData(**metadata), template_path=str(card_template(template)), **values)
    partial = path.with_suffix(".partial")
    partial.write_text(str(card), encoding="utf-8")
    partial.replace(path)


def read_card(path: Path) -> dict[str, Any]:
    """The YAML at the top of a README.md; empty where there is none.

    Raises:
        ValueError: if the YAML cannot be read.
    """
    try:
        return RepoCard.load(path, ignore_metadata_errors=False).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the metadata at the top of {path} cannot be read: {reason}") from error
