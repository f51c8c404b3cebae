"""The whole story on the Hub, each step a process of its own that knows only what the Hub tells it.

Collects learning histories of Dark Room and publishes them, reads them back with `datasets`, trains a
transformer from the Hub and publishes that, and plays goals that no history was collected on, in a process
that cannot import ad_hf.

    python scripts/hub_story.py --namespace YOUR_NAME --output runs/hub

It needs a token that may write to the namespace (`hf auth login`), and makes NAMESPACE/ad-histories and
NAMESPACE/ad-darkroom there. HF_ENDPOINT chooses another Hub, and --set changes the recipe as in ad-hf.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

READ = """
import sys
from datasets import load_dataset

rows = load_dataset(sys.argv[1], "dark-room", split="train")
stream = load_dataset(sys.argv[1], "dark-room", split="train", streaming=True)
assert sum(map(len, stream.with_format("arrow").iter(1000))) == len(rows)
earned = [rows[row]["episode_return"] for row in (0, -1)]
print(f"{len(rows)} episodes, downloaded and streamed; the first earned {earned[0]}, the last {earned[1]}")
"""


def main() -> None:
    """Run the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--namespace", required=True, help="your name on the Hub, or an organisation's")
    parser.add_argument("--output", type=Path, default=Path("runs/hub"))
    parser.add_argument("--private", action="store_true", help="make both repositories private")
    parser.add_argument(
        "--set", action="append", default=[], metavar="CHANGE", help="for example train.updates=200"
    )
    arguments = parser.parse_args()
    histories, model = (f"{arguments.namespace}/{name}" for name in ("ad-histories", "ad-darkroom"))
    private = ["--private"] if arguments.private else []
    ad_hf = [sys.executable, "-m", "ad_hf"]
    changes = [f"--set={change}" for change in arguments.set]
    collect = ["collect", "dark-room", *changes, "--output", str(arguments.output / "histories")]
    train = ["train", "dark-room", *changes, "--dataset", histories]
    train += ["--output", str(arguments.output / "model")]
    play = str(Path(__file__).parent / "play_without_ad_hf.py")

    run("collect and publish", [*ad_hf, *collect, "--push-to-hub", histories, *private])
    run("read them with datasets alone", [sys.executable, "-c", READ, histories])
    run("train from the Hub", [*ad_hf, *train, "--push-to-hub", "--hub-model-id", model, *private])
    run("play where ad_hf cannot be imported", [sys.executable, play, model])


def run(title: str, command: list[str]) -> None:
    """Run a step in a process with empty Hugging Face caches; stop the story if it fails."""
    print(f"\n== {title}", flush=True)
    started = time.perf_counter()
    token = os.environ.get("HF_TOKEN_PATH", os.path.expanduser("~/.cache/huggingface/token"))
    with tempfile.TemporaryDirectory() as home:
        own = {"HF_HOME": home, "HF_DATASETS_CACHE": f"{home}/datasets", "HF_TOKEN_PATH": token}
        quiet = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
        if subprocess.run(command, env=os.environ | own | quiet).returncode:
            sys.exit(f"{title}: failed")
    print(f"   {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
