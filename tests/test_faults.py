"""A cut of ``python -m benchmarks.faults``: nothing is lost, nothing differs, and there is no traceback."""

import re
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_kills_full_disks_and_altered_files_lose_nothing(tmp_path):
    command = [sys.executable, "-m", "benchmarks.faults", "--kills", "5", "--disks", "6", "--files", "5"]
    done = subprocess.run([*command, "--out", tmp_path / "faults.md"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| ([^|]+) \|((?: +\d+ \|)+)$", (tmp_path / "faults.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    for name, numbers in rows:
        counts = list(map(int, numbers.strip(" |").split(" | ")))
        assert not any(counts[2:]), f"{name}: {done.stderr}"
