"""The whole story on the Hub, from nothing to a model that learns in context where ad_hf is not installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import LocalHub

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_what_the_hub_gives_back_learns_in_context(hub: LocalHub, tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "hub_story.py"), "--namespace", "org", "--private"]
    done = subprocess.run(
        [*script, "--set", "train.updates=200", "--output", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = re.findall(r"^episode +(\d+)  mean return +([\d.]+) on 16 held-out goals$", done.stdout, re.M)
    curve = {int(episode): float(value) for episode, value in found}
    assert curve[1] < 2.6, done.stdout
    assert curve[40] > 11, done.stdout  # over three seeds at least 13.9; of 600 updates, 15.9

    assert "234000 episodes, downloaded and streamed" in done.stdout
    card = hub.files("model", "org/ad-darkroom")["README.md"].decode()
    assert "- org/ad-histories" in card  # trained on what the Hub holds, not on the folder beside it
    assert "hf_ada_write" not in done.stdout
    for kind, name in (("dataset", "org/ad-histories"), ("model", "org/ad-darkroom")):
        assert not any(b"hf_ada_write" in content for content in hub.files(kind, name).values())
