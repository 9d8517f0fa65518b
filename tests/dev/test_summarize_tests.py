"""The closing line of ./dev test counts every case of every suite, and the failures that left no report."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PASS, FAIL, SKIP = "<testcase/>", "<testcase><failure/></testcase>", "<testcase><skipped/></testcase>"


def ctest(name: str, status: str) -> str:
    return f'<testcase name="{name}" status="{status}">{"<failure/>" if status == "fail" else ""}</testcase>'


def summarize(folder: Path, reports: dict[str, str]) -> tuple[int, list[str]]:
    for name, cases in reports.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "summarize_tests.py", folder], capture_output=True, text=True
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    ("reports", "code", "closing"),
    [
        ({"python.xml": PASS * 3}, 0, "3 passed, 0 failed"),
        ({"python.xml": PASS + SKIP, "lint.xml": PASS + FAIL}, 1, "2 passed, 1 failed, 1 skipped"),
        ({"ctest.xml": ctest("lib", "run"), "cpp/lib_tests.xml": PASS * 4 + SKIP}, 0, "4 passed, 0 failed, 1 skipped"),
        (
            {"ctest.xml": ctest("lib", "run") + ctest("example", "run"), "cpp/lib.xml": PASS * 2},
            0,
            "3 passed, 0 failed",
        ),
        # the program crashed: before its report, and after it
        ({"ctest.xml": ctest("lib", "fail")}, 1, "0 passed, 1 failed"),
        ({"ctest.xml": ctest("lib", "fail"), "cpp/lib_tests.xml": PASS * 2}, 1, "2 passed, 1 failed"),
        # failures that the report already counts are counted once
        ({"ctest.xml": ctest("lib", "fail"), "cpp/lib_tests.xml": PASS + FAIL * 2}, 1, "1 passed, 2 failed"),
        # nothing ran
        ({}, 1, "0 passed, 0 failed"),
    ],
)
def test_closing_line(tmp_path, reports, code, closing):
    status, lines = summarize(tmp_path, reports)
    assert (status, lines[-1]) == (code, closing)


def test_one_line_a_suite(tmp_path):
    programs = "".join(ctest(name, "run") for name in ("lib", "lesson_1", "lesson_2"))
    reports = {"ctest.xml": programs, "cpp/lib.xml": PASS, "python.xml": PASS, "lint.xml": FAIL}
    _, lines = summarize(tmp_path, reports)
    assert [line.split()[:2] for line in lines[:-1]] == [
        ["lib", "1"],
        ["programs", "2"],
        ["lint", "0"],
        ["python", "1"],
    ]
