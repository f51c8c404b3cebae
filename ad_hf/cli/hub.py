"""The verbs of the Hub, in the manner of the `hf` command: push, pull, list, env."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ad_hf.cli.command import AsJson, Branch, OverwriteCard, Private, Token, command, say


@command("""
ad-hf push runs/model org/ad-darkroom
ad-hf push runs/histories org/ad-histories --private
""")
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of a trained model, or of learning histories.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Where to publish it.")],
    private: Private = False,
    revision: Branch = None,
    overwrite_card: OverwriteCard = False,
    token: Token = None,
) -> None:
    """Publish a model or learning histories, with a card, in one commit."""
    from ad_hf.runs import Destination, push_dataset, push_model

    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} to push")
    to = Destination(repository, private, revision, overwrite_card)
    if (folder / "config.json").is_file():
        typer.echo(push_model(folder, to))
        say(f"next: ad-hf generate {repository}")
    elif (folder / "checkpoints").is_dir():
        raise ValueError(f"the training in {folder} has not ended: go on with `ad-hf train --resume` first")
    else:
        typer.echo(push_dataset(folder, to))
        say(f"next: python -c 'import datasets; print(datasets.load_dataset(\"{repository}\"))'")


@command("""
ad-hf pull org/ad-darkroom
ad-hf pull org/ad-histories --type dataset --output runs/histories
""")
def pull(
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="What to fetch.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder to put it into. Default: the cache of huggingface_hub.")
    ] = None,
    repo_type: Annotated[str, typer.Option("--type", help="model or dataset.")] = "model",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: main.")] = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a model or learning histories, check every file against its hash, and print where it is."""
    from ad_hf.hub import DATASET_FILES, MODEL_FILES, fetch

    patterns = {"model": MODEL_FILES, "dataset": DATASET_FILES}
    if repo_type not in patterns:
        raise ValueError(f"--type is {repo_type!r}, but must be model or dataset")
    name = f"{repository}@{revision}" if revision else repository
    folder = fetch(name, repo_type, patterns[repo_type], output)
    typer.echo(
        json.dumps({"type": repo_type, "id": repository, "folder": str(folder)}) if as_json else folder
    )
    verb = "generate" if repo_type == "model" else "train dark-room --output runs/model --dataset"
    say(f"next: ad-hf {verb} {folder if output else name}")


@command("""
ad-hf list org
ad-hf list org --json | jq -r .[].id
""")
def list_(
    author: Annotated[str, typer.Argument(metavar="ORG", help="User or organisation.")],
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List the models and learning histories that somebody has published."""
    from ad_hf.hub import list_repositories

    found = list_repositories(author)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for repository in found:
        private = "private" if repository["private"] else ""
        updated = (repository["updated"] or "")[:10]
        typer.echo(f"{repository['type']:8}{repository['id']:48}{updated:12}{private}".rstrip())
    if not found:
        say(f"{author} has published nothing with ad-hf that you may see")


@command("""
ad-hf env
ad-hf env --json
""")
def env(as_json: AsJson = False) -> None:
    """Print what a bug report needs: versions, machine and Hub settings. No secrets are among them."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch
    from huggingface_hub import constants, get_token

    from ad_hf import __version__

    def installed(library: str) -> str | None:
        try:
            return version(library)
        except PackageNotFoundError:  # hf-xet is not there on every platform
            return None

    libraries = "torch transformers datasets accelerate huggingface-hub hf-xet gymnasium safetensors typer"
    facts: dict[str, Any] = {
        "ad-hf": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{library: installed(library) for library in libraries.split()},
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "CPU cores": os.cpu_count(),
        "Hub": constants.ENDPOINT,
        "Hub cache": constants.HF_HUB_CACHE,
        "Hub token": get_token() is not None,
        "HF_HUB_OFFLINE": constants.HF_HUB_OFFLINE,
        "HF_HUB_DISABLE_XET": constants.HF_HUB_DISABLE_XET,
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    words = {True: "yes", False: "no", None: "none"}
    for name, value in facts.items():
        typer.echo(f"{name:20}{words[value] if value is None or isinstance(value, bool) else value}")
