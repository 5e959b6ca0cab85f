"""`swift plugin check X`: the contract suite of everything that a plugin offers, in a process of its own."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from swift.cli.tables import table
from swift.errors import PluginBroken, PluginError, PluginNotFound
from swift.plugins import claims, missing, registry
from swift.plugins.info import Entry

SUITE = """from swift.testing import contract

{lines}
"""
CLAIM_FAILED, CLAIM_HOLDS, NOT_CLAIMED = "FAILED", "holds", "-"


class Verdict(NamedTuple):
    """Of one test; `test` is its name, without parameters."""

    component: str
    claim: str
    verdict: str
    reason: str = ""
    test: str = ""


def check(what: str) -> int:
    """Print a verdict per claim. Exit code 0 where all hold, else 1.

    Args:
        what: Plugin id, distribution, `kind:name` or `dist/kind:name`.

    Raises:
        PluginNotFound: Nothing of that name is installed.
        PluginBroken: It cannot be loaded, or offers nothing.
        PluginError: pytest is missing, or the suite could not run.
    """
    entries = offered(what)
    for module in ("pytest", "torch", "tokenizers"):
        if importlib.util.find_spec(module) is None:
            raise PluginError(f"the contract suite needs {module}", fix="pip install 'swift-llm-core[run,testing]'")
    print(f"checking {len(entries)} component(s) of {', '.join(sorted({e.origin for e in entries}))}", flush=True)
    verdicts = run_suite(entries)
    rows = [(v.component, v.claim, v.verdict + (f" {v.reason}" if v.verdict == NOT_CLAIMED else "")) for v in verdicts]
    print(table(("component", "claim", "verdict"), rows, width=0))
    for verdict in verdicts:
        if verdict.verdict == CLAIM_FAILED:
            print(f"\n{verdict.component}: {verdict.claim}\n  {verdict.reason}")
    if claimed := of_claims(entries, verdicts):
        print("\nwhat the specs claim\n" + table(("component", "claim", "verdict", "by the test"), claimed, width=0))
    counts = Counter(v.verdict for v in verdicts)
    others = f"{counts[NOT_CLAIMED]} not claimed" if counts[NOT_CLAIMED] else "all were tried"
    print(f"\n{counts[CLAIM_HOLDS]} hold, {counts[CLAIM_FAILED]} failed, {others}")
    return 1 if counts[CLAIM_FAILED] else 0


def offered(what: str) -> list[Entry]:
    """Components of a plugin or distribution, or the one that is named."""
    found = registry.discover(strict=False)
    plugins = [p for p in found.plugins if what in (p.id, p.dist)]
    unusable = [p for p in plugins if p.status != "ok"]
    if unusable:
        raise PluginBroken("\n".join(p.describe() for p in unusable))
    if plugins:
        entries = [e for e in found.entries() if any((e.plugin, e.dist) == (p.id, p.dist) for p in plugins)]
        if not entries:
            raise PluginBroken(f"{what} is installed, but offers nothing", fix="return specs from its hooks")
        return entries
    if ":" in what:
        kind, _, name = what.rpartition("/")[2].partition(":")
        return [found.find(kind, what if "/" in what else name)]
    near = missing.nearest(what, {*(p.id for p in found.plugins), *(p.dist for p in found.plugins)})
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    raise PluginNotFound(f"no plugin or distribution is called {what!r}{meant}", fix="swift plugin list")


def run_suite(entries: list[Entry]) -> list[Verdict]:
    """One verdict per test of the contract suite. Raises `PluginError` where pytest could not run it."""
    lines = [f"Test{n} = contract({f'{e.kind}:{e.qualified}'!r})" for n, e in enumerate(entries)]
    with tempfile.TemporaryDirectory(prefix="swift-check-") as folder:
        (Path(folder) / "test_suite.py").write_text(SUITE.format(lines="\n".join(lines)), encoding="utf-8")
        (Path(folder) / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        report = Path(folder) / "report.xml"
        command = [
            sys.executable, "-m", "pytest", "test_suite.py", "-q", "--tb=short", "--import-mode=importlib", "-p",
            "no:cacheprovider", f"--junit-xml={report}", "-o", "junit_family=xunit1",
        ]  # fmt: skip
        env = {**os.environ, "PYTEST_ADDOPTS": ""}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, errors="replace")
        # 0: all passed, 1: some failed. Anything else is no verdict about the plugin's claims.
        if done.returncode not in (0, 1) or not report.is_file():
            raise PluginError(f"the contract suite could not run:\n{(done.stdout + done.stderr)[-3000:].strip()}")
        root = importlib.import_module("xml.etree.ElementTree").parse(report).getroot()
        return [verdict(case, entries) for case in root.iter("testcase")]


def of_claims(entries: list[Entry], verdicts: list[Verdict]) -> list[tuple[str, str, str, str]]:
    """(component, claim, verdict, tests) of what the specs claim by their fields: the worst verdict of the tests of each."""
    rows = []
    for entry in entries:
        said = {(v.test, v.verdict) for v in verdicts if v.component == entry.id}
        for claim, tests in claims.claimed(entry.spec):
            found = {verdict for test, verdict in said if test in tests}
            worst = next((v for v in (CLAIM_FAILED, CLAIM_HOLDS) if v in found), NOT_CLAIMED)
            shown = ", ".join(test.removeprefix("test_").replace("_", " ") for test in tests)
            rows.append((entry.id, claim, worst if tests else CLAIM_FAILED, shown or "this version has none"))
    return rows


def verdict(case: Any, entries: list[Entry]) -> Verdict:
    """Of one `testcase` of the JUnit report."""
    number = case.get("classname", "").rpartition(".")[2].removeprefix("Test")
    component = entries[int(number)].id if number.isdigit() else case.get("classname", "")
    test, bracket, parameter = case.get("name", "").partition("[")
    claim = test.removeprefix("test_").replace("_", " ") + bracket + parameter
    for fault in (*case.findall("failure"), *case.findall("error")):
        return Verdict(component, claim, CLAIM_FAILED, _message(fault.get("message", "")), test)
    for skipped in case.findall("skipped"):
        return Verdict(component, claim, NOT_CLAIMED, skipped.get("message", ""), test)
    return Verdict(component, claim, CLAIM_HOLDS, "", test)


def _message(text: str) -> str:
    """The sentence of an assertion, without the comparison that pytest adds."""
    lines = text.strip().splitlines() or ["no message"]
    return lines[0].removeprefix("AssertionError: ").removeprefix("Failed: ")[:600]
