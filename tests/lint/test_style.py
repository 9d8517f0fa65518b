"""Every tracked file is formatted, and ruff has nothing to say."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_format_and_ruff():
    done = subprocess.run([ROOT / "dev", "format", "--check"], capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
