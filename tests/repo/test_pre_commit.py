"""The hooks of pre-commit and `make check` are the same checks."""

import re
from typing import Any

import pytest
import yaml

from testkit.compose import ROOT

CONFIG = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def hooks_problems(config: str, makefile: str) -> list[str]:
    """Where the hooks differ from the checks, or would not run on the whole tree at each commit."""
    found = re.search(r"^check: ([a-z ]+) ##", makefile, re.MULTILINE)
    checks = found[1].split() if found else []
    repositories: list[dict[str, Any]] = yaml.safe_load(config)["repos"]
    hooks = [hook for repository in repositories for hook in repository["hooks"]]
    problems = [] if [hook["entry"] for hook in hooks] == [f"make {check}" for check in checks] else ["other checks"]
    problems += [f"{each['repo']} is not local" for each in repositories if each["repo"] != "local"]
    for hook in hooks:
        how = hook["language"], hook.get("pass_filenames", True), hook.get("always_run", False)
        if how != ("system", False, True):
            problems.append(f"{hook['id']} is run in another way")
    return problems


def test_the_hooks_are_the_checks() -> None:
    assert hooks_problems(CONFIG, MAKEFILE) == []


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("entry: make types", "entry: make test"),
        ("pass_filenames: false", "pass_filenames: true"),
        ("always_run: true", "always_run: false"),
        ("language: system", "language: python"),
        ("repo: local", "repo: https://example.org/hooks"),
    ],
)
def test_other_hooks_are_found(good: str, bad: str) -> None:
    assert good in CONFIG
    assert hooks_problems(CONFIG.replace(good, bad, 1), MAKEFILE)


def test_a_check_without_a_hook_is_found() -> None:
    assert "\ncheck: lint types contracts ##" in MAKEFILE
    assert hooks_problems(
        CONFIG, MAKEFILE.replace("\ncheck: lint types contracts", "\ncheck: lint types contracts figures")
    )
