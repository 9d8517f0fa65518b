"""Adds up the JUnit reports of a test run: a line for each suite, and `N passed, N failed` for all of them.

A folder of results holds one report for each suite, and of the programs that ctest ran `ctest.xml` (ctest's own) and
`cpp/NAME.xml` (the program's, whose cases are counted). A program that failed without saying so in a report of its
own, because it crashed or because it writes none, counts as one failed case.
"""

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path


def outcome(case: ElementTree.Element) -> str:
    """What became of one test case, in any of the dialects of JUnit that gtest, lit, pytest and ctest write."""
    if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
        return "failed"
    if case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
        return "skipped"
    return "passed"


def count(report: Path) -> Counter:
    return Counter(outcome(case) for case in ElementTree.parse(report).iter("testcase"))


def count_ctest(results: Path) -> dict[str, Counter]:
    """One suite for each program that wrote a report, and one, "programs", for all that did not."""
    own_report = results / "ctest.xml"
    if not own_report.exists():
        return {}
    suites = {}
    for case in ElementTree.parse(own_report).iter("testcase"):
        name = case.get("name")
        reports = [results / "cpp" / f"{name}{suffix}.xml" for suffix in ("", "_tests")]
        report = next((path for path in reports if path.exists()), None)
        cases = count(report) if report else Counter([outcome(case)])
        if outcome(case) == "failed" and not cases["failed"]:
            cases["failed"] += 1
        suites.setdefault(name if report else "programs", Counter()).update(cases)
    return suites


def summary(cases: Counter) -> str:
    text = f"{cases['passed']} passed, {cases['failed']} failed"
    return text + (f", {cases['skipped']} skipped" if cases["skipped"] else "")


def main(folder: str) -> int:
    results = Path(folder)
    suites = count_ctest(results)
    for report in sorted(results.glob("*.xml")):
        if report.name != "ctest.xml":
            suites[report.stem] = count(report)
    for name, cases in suites.items():
        print(f"  {name:<24} {summary(cases)}")
    total = sum(suites.values(), Counter())
    print(summary(total))
    return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
