"""The guides' Python runs, from the first block to the last, as a reader would type it."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def run(guide):
    """The code blocks of a guide, in one scope."""
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / guide).read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, guide, "exec"), names)


def test_guide_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("python.md")
    shown = capsys.readouterr().out
    assert ".visible .entry low_bit_gemv(" in shown and "fmul\tv" in shown.replace(" ", "\t")


def test_guide_to_low_bit_weights_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("low-bit.md")
    shown = capsys.readouterr().out
    assert shown.startswith("relative error 0.0") and "runs      low_bit_gemv\n" in shown


def test_guide_to_training_runs():
    run("torch.md")
