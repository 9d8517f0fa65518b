"""./dev on machines that lack things, played by stand-ins for dpkg-query, apt-get and sudo."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(tmp_path):
    """Runs a function of scripts/machine.sh where the given packages are installed and apt-get only takes notes."""
    notes = tmp_path / "notes"
    notes.touch()

    def run(function: str, installed: dict[str, str]) -> tuple[subprocess.CompletedProcess, list[str]]:
        (tmp_path / "status").write_text("".join(f"{name} {status}\n" for name, status in installed.items()))
        stand_ins = {
            "dpkg-query": f"cat {tmp_path}/status; exit 1",
            "apt-get": f'echo "apt-get $*" >>{notes}',
            "sudo": '"$@"',
        }
        for name, script in stand_ins.items():
            path = tmp_path / name
            path.write_text(f"#!/usr/bin/env bash\n{script}\n")
            path.chmod(0o755)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"source scripts/common.sh; source scripts/machine.sh; {function}"],
            cwd=ROOT,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        return done, notes.read_text().splitlines()

    return run


def wanted() -> list[str]:
    lines = (ROOT / "scripts" / "packages.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_complete_machine_is_left_alone(machine):
    done, notes = machine("ensure_packages", {name: "installed" for name in wanted()})
    assert done.returncode == 0 and done.stdout == "" and notes == []


def test_bare_machine_gets_everything_in_one_call(machine):
    done, notes = machine("ensure_packages", {})
    assert done.returncode == 0, done.stdout
    assert notes[0] == "apt-get update"
    assert notes[1].split()[:4] == ["apt-get", "install", "-y", "--no-install-recommends"]
    assert sorted(notes[1].split()[4:]) == sorted(wanted())


def test_only_what_is_missing_is_installed(machine):
    installed = {name: "installed" for name in wanted()}
    del installed["ninja-build"]
    installed["qemu-user"] = "config-files"  # removed, but not purged
    done, notes = machine("ensure_packages", installed)
    assert done.returncode == 0, done.stdout
    assert notes[1].split()[4:] == ["ninja-build", "qemu-user"]
