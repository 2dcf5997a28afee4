import os
import shutil
import subprocess
from pathlib import Path

import pytest

from testkit.compose import ROOT
from testkit.parts import missing

# An interpreter as far as scripts/setup.sh can see. It writes down what it was asked to do beside itself.
PYTHON = """#!/bin/sh
echo "$*" >> "$0.log"
case "$*" in
    --version) echo "Python {version}" ;;
    "-c import sys"*) exit {unsuitable} ;;
    "-c import ensurepip"*) exit {no_ensurepip} ;;
    "-m venv --clear --without-pip .venv") mkdir -p .venv/bin && cp "$FAKES/made-without-pip" .venv/bin/python ;;
    "-m venv --clear .venv") mkdir -p .venv/bin && cp "$FAKES/made" .venv/bin/python ;;
    "-m pip --version") exit {no_pip} ;;
    "-m pip --python "*) {outside} ;;
    "-m pip "*) exit {no_pip} ;;
    *) echo "not expected: $*" >&2; exit 3 ;;
esac
"""
# A pip that knows `--python`: installing pip into the environment makes it one that has pip.
NEW_PIP = 'case "$*" in *" install "*) cp "$FAKES/made" .venv/bin/python ;; esac'
OLD_PIP = 'echo "no such option: --python" >&2; exit 2'


class Machine:
    """A PATH with nothing on it but what a test puts there, and a checkout."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "bin"
        self.checkout = directory / "a checkout"
        self.fakes = directory / "fakes"
        for each in (self.path, self.checkout / "scripts", self.fakes):
            each.mkdir(parents=True)
        for tool in ("sh", "head", "touch", "mkdir", "cp", "find"):
            found = shutil.which(tool)
            assert found is not None
            (self.path / tool).symlink_to(found)
        for name in ("pyproject.toml", "constraints.txt", "Makefile", "scripts/setup.sh"):
            shutil.copy(ROOT / name, self.checkout / name)
        self.python("made", directory=self.fakes)
        self.python("made-without-pip", directory=self.fakes, no_pip=True)

    def python(
        self,
        name: str,
        *,
        directory: Path | None = None,
        version: str = "3.12.1",
        unsuitable: bool = False,
        no_ensurepip: bool = False,
        no_pip: bool = False,
        outside: str = OLD_PIP,
    ) -> None:
        text = PYTHON.format(
            version=version,
            unsuitable=int(unsuitable),
            no_ensurepip=int(no_ensurepip),
            no_pip=int(no_pip),
            outside=outside,
        )
        self.script(name, text, directory)

    def script(self, name: str, text: str, directory: Path | None = None) -> None:
        path = (directory or self.path) / name
        path.write_text(text, "utf-8")
        path.chmod(0o755)

    def setup(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "scripts/setup.sh"],
            cwd=self.checkout,
            env={"PATH": str(self.path), "FAKES": str(self.fakes)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def asked(self, name: str) -> str:
        log = self.path / f"{name}.log"
        return log.read_text("utf-8") if log.exists() else ""

    @property
    def asked_inside(self) -> str:
        return (self.checkout / ".venv/bin/python.log").read_text("utf-8")

    @property
    def installed(self) -> bool:
        command = "install --quiet --constraint constraints.txt --editable .[dev]"
        return (self.checkout / ".venv/.set-up").exists() and command in self.asked_inside


def later(machine: Machine, changed: str) -> None:
    """Change a file after the last installation."""
    newer = (machine.checkout / ".venv/.set-up").stat().st_mtime + 10
    os.utime(machine.checkout / changed, (newer, newer))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


ORDER = ["python3.12", "python3.11", "python3.13", "python3.14", "python3"]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_takes_the_first_interpreter_of_the_list(machine: Machine, first: int) -> None:
    for name in ORDER[first:]:
        machine.python(name)
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert "-m venv" in machine.asked(ORDER[first])
    assert [name for name in ORDER if "-m venv" in machine.asked(name)] == [ORDER[first]]
    assert machine.installed


def test_passes_over_a_shim_that_fails_and_an_interpreter_that_is_too_old(machine: Machine) -> None:
    machine.script("python3.12", "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n")
    machine.python("python3.11", unsuitable=True)
    machine.python("python3.13")
    assert machine.setup().returncode == 0
    assert "-m venv" in machine.asked("python3.13")


def test_says_what_to_install_where_nothing_fits(machine: Machine) -> None:
    machine.script("python3.12", "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n")
    machine.python("python3", version="3.10.13", unsuitable=True)
    done = machine.setup()
    assert done.returncode == 1
    assert not (machine.checkout / ".venv").exists()
    for text in (
        "needs Python 3.11 or later",
        "python3.12: pyenv: python3.12: command not found",
        "python3.14: not on PATH",
        "python3: Python 3.10.13",
        "apt install python3 ",
    ):
        assert text in done.stderr


def test_without_ensurepip_its_own_pip_fills_the_environment(machine: Machine) -> None:
    machine.python("python3", no_ensurepip=True, outside=NEW_PIP)
    assert machine.setup().returncode == 0
    assert "-m venv --clear --without-pip .venv" in machine.asked("python3")
    assert machine.installed


@pytest.mark.parametrize("name", ["pip3", "pip"])
def test_without_ensurepip_a_pip_on_path_fills_the_environment(machine: Machine, name: str) -> None:
    machine.python("python3", no_ensurepip=True)
    machine.script(name, f"#!/bin/sh\n{NEW_PIP}\n")
    assert machine.setup().returncode == 0
    assert machine.installed


def test_without_ensurepip_and_a_new_pip_it_says_so_and_later_starts_anew(machine: Machine) -> None:
    machine.python("python3", no_ensurepip=True)
    machine.script("pip3", f"#!/bin/sh\n{OLD_PIP}\n")
    done = machine.setup()
    assert done.returncode == 1
    assert "no pip 22.3 or later" in done.stderr
    assert "apt install python3-venv" in done.stderr
    assert not (machine.checkout / ".venv/.set-up").exists()
    # The environment without pip that the first try left must not be taken for a finished one.
    machine.script("pip3", f"#!/bin/sh\n{NEW_PIP}\n")
    assert machine.setup().returncode == 0
    assert machine.installed


def test_an_environment_that_works_is_kept_and_one_that_does_not_is_made_anew(machine: Machine) -> None:
    machine.python("python3")
    assert machine.setup().returncode == 0
    asked = machine.asked_inside
    assert machine.setup().returncode == 0
    assert machine.asked("python3").count("-m venv") == 1
    assert (asked.count(" install "), machine.asked_inside.count(" install ")) == (1, 1)
    later(machine, "constraints.txt")
    assert machine.setup().returncode == 0
    assert machine.asked("python3").count("-m venv") == 1
    assert machine.asked_inside.count(" install ") == 2
    machine.script("python", "#!/bin/sh\nexit 127\n", machine.checkout / ".venv/bin")  # upgraded away
    assert machine.setup().returncode == 0
    assert machine.asked("python3").count("-m venv") == 2


def test_a_failed_installation_is_not_taken_for_a_finished_one(machine: Machine) -> None:
    machine.python("python3")
    failing = PYTHON.replace('"-m pip "*) exit {no_pip}', '"-m pip "*) exit 1')
    assert failing != PYTHON
    machine.script(
        "made", failing.format(version="3", unsuitable=0, no_ensurepip=0, no_pip=0, outside=":"), machine.fakes
    )
    assert machine.setup().returncode != 0
    assert not (machine.checkout / ".venv/.set-up").exists()


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt", "scripts/setup.sh"])
def test_make_sets_up_once_and_again_when_a_list_changes(machine: Machine, changed: str) -> None:
    make = shutil.which("make")
    if make is None:
        missing("make", "not found here")

    def to_do() -> int:
        return subprocess.run([make, "--question", "setup"], cwd=machine.checkout, check=False, timeout=60).returncode

    assert to_do() == 1
    machine.python("python3")
    assert machine.setup().returncode == 0
    assert to_do() == 0
    later(machine, changed)
    assert to_do() == 1
