"""Node.js for the tests: where it is, and the packages that the example needs."""

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

from testkit.parts import missing

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples/node"
OLDEST = (20, 11)  # `import.meta.filename`; as package.json says


def find_node() -> str:
    """The program. Where there is none, or one that is too old: a skip on a laptop, a failure in CI."""
    wanted = f"Node.js {OLDEST[0]}.{OLDEST[1]} or later"
    node = shutil.which("node") or missing("node", f"not found on PATH ({wanted})")
    version = version_of(node)
    if tuple(map(int, version.removeprefix("v").split(".")[:2])) < OLDEST:
        missing("node", f"{node} is {version} ({wanted})")
    return node


@cache
def version_of(node: str) -> str:
    """What the program calls itself: `v20.11.0`."""
    return subprocess.run([node, "--version"], check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def install(directory: Path) -> Path:
    """`directory` with the packages that the example names; those from beside the example where they are there.

    Where npm or its registry cannot be reached, the part `npm` is missing.
    """
    find_node()
    shutil.copy(EXAMPLE / "package.json", directory)
    modules = EXAMPLE / "node_modules"
    if modules.is_dir():
        (directory / "node_modules").symlink_to(modules)
        return directory
    npm = shutil.which("npm")
    if npm is None:
        missing("npm", "not found on PATH")
    command = [npm, "install", "--omit=dev", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    try:
        subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        missing("npm", f"npm install failed: {error}")
    return directory


def run_node(*arguments: str | Path, text: str = "") -> list[str]:
    """The lines that a script prints; a failure shows what it complained about."""
    command = [find_node(), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n").split("\n")  # splitlines() would split at U+2028 as well


def with_script(name: str, directory: Path) -> Path:
    """`directory` with the example's files and a script of tests/integration/nodejs/javascript, whose path is returned.

    A script is copied beside what it imports: that is where Node.js looks.
    """
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copy(file, directory)
    return Path(shutil.copy(ROOT / "tests/integration/nodejs/javascript" / name, directory))


def mongoose_lean(directory: Path, url: str, collection: str) -> tuple[dict[str, str], list[str]]:
    """The versions of what read it, and each document of the collection as Mongoose gives it, in the order of `_id`.

    Args:
        directory: where `node_modules` is.
        url: of the database.
        collection: its name.
    """
    versions, *texts = map(json.loads, run_node(with_script("read_lean.mjs", directory), url, collection))
    return versions, texts
