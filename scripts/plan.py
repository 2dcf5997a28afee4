"""Draw the plan of the packages in docs/architecture.md, between `<!-- plan:ID -->` and `<!-- /plan -->`.

    python scripts/plan.py [--check]

ID is the id of an import-linter contract in `pyproject.toml`. The plan lists its layers, the top one first, with a
blank line between two floors. `plan:ID packages` also lists the packages in each, `plan:ID files` its packages and
files. Each is described by the first sentence of its docstring.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/architecture.md"
_PLACE = re.compile(r"(<!-- plan:([\w-]+)(?: (packages|files))? -->\n).*?(<!-- /plan -->)", re.DOTALL)
_SENTENCE = re.compile(r".*?[.?!](?= [A-Z`]|$)")
_WIDTH = 118
_NAMES = 28  # the column of the descriptions


def contract(name: str) -> dict[str, Any]:
    """Find an import-linter contract by its id. Raises ValueError: it does not exist."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    for each in found:
        if each["id"] == name:
            return dict(each)
    raise ValueError(f"pyproject.toml has no contract {name}")


def floors(name: str) -> list[list[str]]:
    """The floors of a contract, top first, each with its packages."""
    return [layer.split(" | ") for layer in contract(name)["layers"]]


def filled(text: str) -> str:
    """Draw each plan in `text` again. Raises ValueError: a plan names a contract that does not exist."""
    return _PLACE.sub(lambda place: place[1] + _plan(place[2], place[3]) + place[4], text)


def _plan(name: str, within: str | None) -> str:
    (parent,) = contract(name).get("containers", ["."])
    drawn = [
        "\n".join(line for each in floor for line in _lines(ROOT / parent / each, within)) for floor in floors(name)
    ]
    return "```text\n" + "\n\n".join(drawn) + "\n```\n"


def _lines(path: Path, within: str | None) -> Iterator[str]:
    """The lines of a package or a module of a floor, and of its contents."""
    if not path.is_dir():
        yield _line(f"{path.name}.py", _sentence(path.with_suffix(".py")))
        return
    yield _line(f"{path.name}/", _sentence(path / "__init__.py"))
    for each in sorted(path.iterdir()) if within else ():
        if (each / "__init__.py").is_file():
            yield _line(f"  {each.name}/", _sentence(each / "__init__.py"))
        elif within == "files" and each.name == "lua":
            yield _line("  lua/", ", ".join(sorted(script.stem for script in each.glob("*.lua"))))
        elif within == "files" and each.suffix == ".py" and each.name != "__init__.py":
            yield _line(f"  {each.name}", _sentence(each))


def _line(name: str, description: str) -> str:
    hanging = " " * _NAMES
    text = textwrap.fill(description, _WIDTH - _NAMES, break_on_hyphens=False, break_long_words=False)
    return f"{name:<{_NAMES}}{text}".rstrip().replace("\n", f"\n{hanging}")


def _sentence(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split())
    found = _SENTENCE.match(first)
    return found[0] if found else first


def main() -> int:
    """Draw the plans. With `--check`, only say whether they would change, with status 1 if they would."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if the page is out of date")
    check = parser.parse_args().check
    text = PAGE.read_text("utf-8")
    new = filled(text)
    if new == text:
        return 0
    print(f"{PAGE.name}: {'out of date; run python scripts/plan.py' if check else 'the plan is drawn anew'}")
    if not check:
        PAGE.write_text(new, "utf-8")
    return int(check)


if __name__ == "__main__":
    sys.exit(main())
