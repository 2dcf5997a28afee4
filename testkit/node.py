"""Finds Node.js for the tests, and installs the packages that the example needs."""

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
    """Return the path of Node.js. If it is missing or too old, the test is skipped; in CI it fails."""
    wanted = f"Node.js {OLDEST[0]}.{OLDEST[1]} or later"
    node = shutil.which("node") or missing("node", f"not found on PATH ({wanted})")
    version = version_of(node)
    if tuple(map(int, version.removeprefix("v").split(".")[:2])) < OLDEST:
        missing("node", f"{node} is {version} ({wanted})")
    return node


@cache
def version_of(node: str) -> str:
    """Return the version that the program prints: `v20.11.0`."""
    return subprocess.run([node, "--version"], check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def install(directory: Path) -> Path:
    """Put the example's packages into `directory`, and return it. Packages beside the example are used if present.

    If npm or its registry cannot be reached, the part `npm` is missing.
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
    """Run a script, and return the lines that it prints. A failure shows its standard error."""
    command = [find_node(), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n").split("\n")  # splitlines() would split at U+2028 as well


def with_script(name: str, directory: Path) -> Path:
    """Copy the example's files and a script of tests/integration/nodejs/javascript to `directory`; return its path.

    The script must be beside the files that it imports, because Node.js looks for them there.
    """
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copy(file, directory)
    return Path(shutil.copy(ROOT / "tests/integration/nodejs/javascript" / name, directory))


def mongoose_lean(directory: Path, url: str, collection: str) -> tuple[dict[str, str], list[str]]:
    """Return each document of the collection as Mongoose reads it, in the order of `_id`, after the readers' versions.

    Args:
        directory: where `node_modules` is.
        url: the database's URL.
        collection: its name.
    """
    versions, *texts = map(json.loads, run_node(with_script("read_lean.mjs", directory), url, collection))
    return versions, texts
