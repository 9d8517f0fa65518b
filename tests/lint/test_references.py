"""docs/reference is what the build writes today."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def pages(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*.md")}


def test_references_are_current():
    built, committed = pages(ROOT / "build" / "docs" / "reference"), pages(ROOT / "docs" / "reference")
    stale = sorted(name for name in built | committed if built.get(name) != committed.get(name))
    assert built, "expected the build to write references, got none"
    assert not stale, f"expected docs/reference to be current, got old {', '.join(stale)} (./dev docs)"
