"""The `ad-hf` command: each verb parses, calls one function, and prints the next command to type.

Data goes to stdout, talk to stderr. Heavy imports stand inside the verbs: torch and transformers take
seconds, and `--help` must not pay for them.
"""

import signal
import sys

from ad_hf.cli import route  # isort: skip  # before the verbs of the Hub, as --help lists them
from ad_hf.cli import hub
from ad_hf.cli.command import app, say_that_it_was_told
from ad_hf.cli.processes import Terminated, end_soon_when_asked


def main() -> None:
    """Run the command line."""
    end_soon_when_asked()
    try:
        app()
    except Terminated:  # while arguments were being read
        say_that_it_was_told()
        sys.exit(128 + signal.SIGTERM)


__all__ = ["app", "hub", "main", "route"]
