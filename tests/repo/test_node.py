"""A Node.js that is too old for the example counts as missing, and the reason says so."""

import json
from pathlib import Path

import pytest

from testkit.node import EXAMPLE, OLDEST, find_node


def installed(version: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `node` of that version, alone on PATH."""
    node = directory / "node"
    node.write_text(f"#!/bin/sh\necho {version}\n")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
    return node


@pytest.mark.parametrize("version", ["v20.11.0", "v20.20.2", "v22.0.0"])
def test_one_that_is_new_enough_is_found(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = installed(version, tmp_path, monkeypatch)
    assert find_node() == str(node)


@pytest.mark.parametrize("version", ["v20.10.0", "v18.20.4", "v20.9.11"])
def test_an_older_one_is_missing(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = installed(version, tmp_path, monkeypatch)
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception)) as told:
        find_node()
    assert str(told.value) == f"missing part node: {node} is {version} (Node.js 20.11 or later)"


def test_the_package_says_the_same() -> None:
    assert json.loads((EXAMPLE / "package.json").read_text())["engines"]["node"] == ">=" + ".".join(map(str, OLDEST))
