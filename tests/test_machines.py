"""Two machines: two network namespaces joined by a cable, each with a loopback and a disk of its own.

All that they see of each other is 10.77.0.1 and 10.77.0.2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cli import invoke
from test_processes import CONFIGS, ON_CPU, ROOT, assert_alike, died_after, train

pytestmark = pytest.mark.slow

MACHINES = {"ad-hf-first": "10.77.0.1", "ad-hf-second": "10.77.0.2"}  # namespace -> address
CABLE = ("ad-hf-0", "ad-hf-1")  # its ends, which are the machines' network cards

__all__ = ["train"]  # a fixture


def ip(*words: str, check: bool = True) -> subprocess.CompletedProcess:
    return subprocess.run(["ip", *words], check=check, capture_output=True)


@pytest.fixture
def machines() -> Iterator[None]:
    if shutil.which("ip") is None or ip("netns", "add", next(iter(MACHINES)), check=False).returncode:
        pytest.skip("needs root, and iproute2, to make network namespaces")
    try:
        ip("netns", "add", list(MACHINES)[1])
        ip("link", "add", CABLE[0], "type", "veth", "peer", "name", CABLE[1])
        for (name, address), card in zip(MACHINES.items(), CABLE, strict=True):
            ip("link", "set", card, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", card)
            ip("-n", name, "link", "set", card, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in MACHINES:
            ip("netns", "del", name, check=False)  # and the cable with it


def test_two_machines_that_share_no_disk_train_as_one_process(
    machines: None, train: list[Any], tmp_path: Path
) -> None:
    assert invoke(*train, "--output", tmp_path / "one").exit_code == 0
    # The first machine has what a run of one process left after two updates; the second has nothing.
    disks = [died_after(2, tmp_path / "one", tmp_path / "first" / "model"), tmp_path / "second" / "model"]
    first_address = next(iter(MACHINES.values()))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / "ddp.yaml"]
    launch += ["--num_machines", "2", "--num_processes", "2", "--main_process_port", "29500"]
    launch += ["--main_process_ip", first_address]
    running = []
    for rank, (name, card, output) in enumerate(zip(MACHINES, CABLE, disks, strict=True)):
        command = [*launch, "--machine_rank", rank, "-m", "ad_hf", *train, "--output", output, "--resume"]
        env = {**os.environ, **ON_CPU, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": card}
        words = [str(word) for word in ("ip", "netns", "exec", name, *command)]
        running.append(subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True))
    try:
        said = [process.communicate(timeout=240)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said[0][-2000:] + said[1][-2000:]
    assert_alike(disks[0], tmp_path / "one")
    assert not disks[1].exists()
