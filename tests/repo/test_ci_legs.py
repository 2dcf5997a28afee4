"""The legs of `.ci/run`: what they declare, what the summary says, and where their packages come from."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cachekeeper.devservers.program_version import DEBIAN_PACKAGES
from testkit.compose import ROOT
from testkit.parts import PARTS, missing

CI = ROOT / ".ci"
SCRIPTS = [CI / "run", *sorted(CI.glob("*.sh"))]
LEGS = (CI / "legs.sh").read_text("utf-8")


def bash(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script with the legs' functions."""
    sources = "".join(f". .ci/{name}.sh; " for name in ("machine", "root", "legs"))
    return subprocess.run(
        ["bash", "-euc", sources + script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def names() -> list[str]:
    return bash('printf "%s\\n" "${LEGS[@]}"').stdout.split()


def test_the_scripts_can_be_read() -> None:
    for script in SCRIPTS:
        subprocess.run(["bash", "-n", str(script)], check=True, timeout=60)


def test_every_leg_has_its_function_and_its_reason() -> None:
    assert {"wheels", "debian12", "debian13"} <= set(names())
    for name in names():
        assert bash(f"declare -F leg_{name.replace('-', '_')}").returncode == 0
        assert re.search(rf"^#   {name} ", LEGS, re.MULTILINE), name


def test_what_the_legs_require_is_known_and_every_part_is_required_by_one() -> None:
    declared = re.findall(r"(?:TEST_PARTS=|test_in_root \S+ \S+ )([a-z0-9,-]+)", LEGS)
    assert len(declared) == 5
    assert {part for parts in declared for part in parts.split(",")} == PARTS.keys()


@pytest.mark.parametrize("which", ["NOT_REPEATED", "NOT_IN_DEBIAN12", "NOT_IN_DEBIAN13"])
def test_what_is_left_out_is_there(which: str) -> None:
    options = bash(f'without "${{{which}[@]}}"').stdout.split()
    assert len(options) > 5
    for option in options:
        name = option.removeprefix("--ignore-glob=*/")
        assert [path for part in ("tests", "verification") for path in (ROOT / part).rglob(name)], option


def test_the_wheels_leg_installs_the_libraries_that_the_readme_names() -> None:
    libraries = bash('printf "%s\\n" "${LIBRARIES[@]}"').stdout.split()
    page = (ROOT / "docs/installation.md").read_text("utf-8")
    assert sorted(libraries) == sorted({*DEBIAN_PACKAGES.values()})
    assert [library for library in libraries if f"`{library}`" not in page] == []


def test_no_address_stands_in_the_scripts() -> None:
    for script in SCRIPTS:
        assert "://" not in script.read_text("utf-8"), script


@pytest.mark.parametrize(("status", "written", "ends"), [(0, True, 0), (2, True, 2), (0, False, 1), (3, False, 3)])
def test_the_report_of_a_root_is_kept_and_its_status_is_the_leg_s(
    tmp_path: Path, status: int, *, written: bool, ends: int
) -> None:
    root, reports = tmp_path / "root", tmp_path / "reports"
    reports.mkdir()
    write = f'mkdir -p "{root}$HOUSE" && echo 1 > "{root}$HOUSE/leg.json";' if written else ""
    stub = f"in_root() {{ {write} return {status}; }}; REPORTS={reports}"
    done = bash(f"{stub}; test_in_root {root} leg git make test")
    assert done.returncode == ends
    assert (reports / "leg.json").exists() == written


def test_an_unknown_leg_is_refused_by_name() -> None:
    done = subprocess.run([CI / "run", "debian11"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "unknown leg debian11; the legs are: check wheels" in done.stderr


CLIENTS = {"redis": "8.1.0", "hiredis": None}
RUN = {
    "python": "3.13.5",
    "clients": CLIENTS,
    "servers": ["redis 8.0.2 from PATH"],
    "seconds": 61,
    "passed": 7,
    "error": 0,
}


def summary(directory: Path, legs: str, **runs: dict[str, Any]) -> tuple[int, str]:
    (directory / "legs").write_text(legs)
    for name, run in runs.items():
        (directory / f"{name}.json").write_text(json.dumps(RUN | run))
    command = [sys.executable, str(CI / "summary.py"), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout


def test_the_summary_says_what_each_leg_ran_against(tmp_path: Path) -> None:
    fine = {"failed": 0, "skipped": 2, "unexpected": 0}
    status, said = summary(tmp_path, "check 0 9\ndebian13 0 130\n", debian13=fine)
    assert status == 0
    assert re.search(r"^debian13 +passed +2:10$", said, re.MULTILINE)
    assert "debian13: 7 passed, 2 skipped (a part is missing) in 1:01, with CPython 3.13.5, redis 8.1.0 and" in said
    assert "    redis 8.0.2 from PATH\n" in said
    assert said.endswith("legs: 2 passed, 0 failed\ntests: 7 passed, 0 failed, 2 skipped\n")


def test_the_summary_fails_with_one_leg(tmp_path: Path) -> None:
    bad = {"failed": 0, "skipped": 3, "unexpected": 1}
    status, said = summary(tmp_path, "debian12 2 9\ncheck 0 9\n", debian12=bad)
    assert status == 1
    assert re.search(r"^debian12 +FAILED \(2\) +0:09$", said, re.MULTILINE)
    assert "7 passed, 1 skipped (not allowed), 3 skipped" in said
    assert "legs: 1 passed, 1 failed" in said


KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"
WANTED = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\n"
DEB822 = """# a mirror
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
"""


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        ([DEB822 + f"Signed-By: {KEY}\n"], WANTED + f"Signed-By: {KEY}\n"),
        ([DEB822 + "Signed-By:\n BEGIN\n .\n END\n\n"], WANTED + "Signed-By:\n BEGIN\n .\n END\n"),
        (
            [f"deb [arch=amd64 signed-by={KEY}] http://mirror.example/debian bookworm main\n"],
            WANTED + f"Signed-By: {KEY}\n",
        ),
        (["deb-src http://no.example bookworm main\ndeb http://mirror.example/debian bookworm main\n"], WANTED),
        (["Types: deb\nURIs: http://no.example\nSuites: bookworm-security\n\n" + DEB822], WANTED),
        (["Types: deb\nURIs: http://no.example\nSuites: nodistro\nEnabled: no", DEB822, DEB822], WANTED),
        (["Enabled: no\nTypes: deb\nURIs: http://no.example\nSuites: bookworm\n\n" + DEB822], WANTED),
        (["Types: deb-src\nURIs: http://no.example\nSuites: bookworm\n"], ""),
        (["# deb http://no.example bookworm main\ndeb http://no.example trixie main\n"], ""),
    ],
)
def test_sources_of_another_suite_are_derived_from_the_sources_that_are_there(
    tmp_path: Path, sources: list[str], wanted: str
) -> None:
    awk = shutil.which("awk")
    if awk is None:
        missing("awk", "not found here")
    paths = []
    for number, text in enumerate(sources):
        paths.append(tmp_path / str(number))
        paths[-1].write_text(text, "utf-8")
    variables = ["-v", "codename=bookworm", "-v", "suite=bookworm-backports"]
    command = [awk, *variables, "-f", str(ROOT / ".ci/sources.awk"), *map(str, paths)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == wanted
