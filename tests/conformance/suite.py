"""A test suite that was not written here: how to get it, run it, and what it should say."""

import os
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

TABLE = Path(__file__).with_name("conformance.toml")


class NotPassing(Struct, frozen=True, forbid_unknown_fields=True):
    """Cases that are known not to pass: a pattern of their names, how many, and why."""

    cases: str
    count: int
    reason: str


class Suite(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One suite of a pinned source distribution."""

    name: str
    package: str
    version: str
    url_variable: str
    """The environment variable that the suite reads the server's address from."""
    url_path: str
    command: list[str]
    """Run in the unpacked distribution; `python` is this interpreter."""
    replace: dict[str, str] = {}
    """What to put into the suite's files, such as our model's name for theirs."""
    context_length: int
    """Of the server's model: short, so that no answer takes long."""
    passing: int
    not_passing: list[NotPassing] = []

    def fetch(self, folder: Path) -> Path | None:
        """Download and unpack the distribution; None without a package index."""
        wanted = f"{self.package}=={self.version}"
        options = ["--no-deps", "--no-binary", ":all:", "--quiet"]
        pip = [sys.executable, "-m", "pip", "download", wanted, *options, "--dest", str(folder)]
        done = subprocess.run(pip, check=False, capture_output=True, text=True)
        if "No matching distribution" in done.stderr:
            return None
        assert done.returncode == 0, done.stderr
        [archive] = folder.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        return next(path for path in folder.iterdir() if path.is_dir())

    def run(self, unpacked: Path, server: str) -> "Outcome":
        """Run the suite against a server."""
        self._rewrite(unpacked)
        report = unpacked / "report.xml"
        command = [sys.executable if word == "python" else word for word in self.command]
        environment = os.environ | {self.url_variable: f"{server}{self.url_path}"}
        subprocess.run(
            [*command, f"--junitxml={report}"], cwd=unpacked, env=environment, check=False
        )
        return Outcome.read(report)

    def _rewrite(self, unpacked: Path) -> None:
        for file in (unpacked / "tests").rglob("*.py"):
            text = original = file.read_text()
            for theirs, ours in self.replace.items():
                text = text.replace(theirs, ours)
            if text != original:
                file.write_text(text)


class Outcome(NamedTuple):
    """What a run said: the names of its cases."""

    passed: list[str]
    failed: list[str]

    @classmethod
    def read(cls, report: Path) -> "Outcome":
        """From pytest's JUnit report; skipped cases are in neither list."""
        passed, failed = [], []
        for case in ET.parse(report).iter("testcase"):
            name = f"{case.get('classname')}.{case.get('name')}"
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(name)
            elif case.find("skipped") is None:
                passed.append(name)
        return cls(passed, failed)

    def surprises(self, suite: Suite) -> list[str]:
        """Where the run differs from what is written down."""
        left = list(self.failed)
        found = []
        for known in suite.not_passing:
            cases = [name for name in left if re.search(known.cases, name)]
            left = [name for name in left if name not in cases]
            if len(cases) != known.count:
                found.append(f"{known.cases}: {len(cases)} cases fail, not {known.count}")
        found += [f"{name}: fails without a reason" for name in left]
        if len(self.passed) != suite.passing:
            found.append(f"{len(self.passed)} cases pass, not {suite.passing}")
        return found


def suites() -> list[Suite]:
    """All suites of `conformance.toml`."""
    return msgspec.toml.decode(TABLE.read_bytes(), type=dict[str, list[Suite]])["suite"]
