"""The guide's Python runs, from the first block to the last, as a reader would type it."""

import re
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def test_guide_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    names = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    shown = capsys.readouterr().out
    assert ".visible .entry low_bit_gemv(" in shown and "fmul\tv" in shown.replace(" ", "\t")
