"""Put measured figures into the docs, between `<!-- figures:NAME -->` and `<!-- /figures -->`.

    python scripts/figures.py [--check]

NAME is a file `benchmarks/results/NAME.json`, which a benchmark or a fault run has written. If the file is missing, the
page says so. `races` becomes a matrix with a row for each case and a column for each contender; a text for each of them
is below it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
_PLACE = re.compile(r"(<!-- figures:([\w-]+) -->\n).*?(<!-- /figures -->)", re.DOTALL)
_MISSING = "*Not measured yet.*\n"
_HELD = {True: "yes", False: "**no**", None: ""}


def pages() -> list[Path]:
    """The files that may quote figures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str, results: Path = RESULTS) -> str:
    """`text` with each place filled from its file.

    Raises:
        ValueError: a file has the wrong form. The message names the file and what is wrong with it.
    """

    def fill(place: re.Match[str]) -> str:
        path = results / f"{place[2]}.json"
        return place[1] + (_MISSING if not path.exists() else _table(path)) + place[3]

    return _PLACE.sub(fill, text)


def _table(path: Path) -> str:
    result = json.loads(path.read_text("utf-8"))
    problem = _problem(result, path.stem)
    if problem:
        raise ValueError(f"{path.name}: {problem}")
    lines = _races(result) if path.stem == "races" else _figures(result)
    servers = ", ".join(_versions(result["servers"])) or "no server"
    libraries = "".join(f", {each}" for each in _versions(result.get("libraries", {})))
    seed = f"; seed {result['seed']}" if result.get("seed") is not None else ""
    commit = result["commit"][:12] + (" with changes" if result["commit"].endswith("+") else "")
    about = f"Measured {result['date']} at commit {commit} on {result['machine']}; {servers}{libraries}{seed}."
    return "\n".join([*lines, "", about, ""])


def _figures(result: Mapping[str, Any]) -> list[str]:
    """A table with a line for each figure."""
    lines = ["| figure | value | target | held |", "|---|---|---|---|"]
    for figure in result["figures"]:
        value = " ".join(part for part in (_number(figure["value"]), str(figure["unit"] or "")) if part)
        target = "" if figure["target"] is None else figure["target"]
        lines.append(_row(figure["figure"], value, target, _HELD[figure["held"]]))
    return lines


def _races(result: Mapping[str, Any]) -> list[str]:
    """A table with a row for each case and a column for each contender; then a description of each of them."""
    cases, contenders = result["cases"], result["contenders"]
    endings = {figure["figure"]: figure["unit"] for figure in result["figures"]}
    cells = {name: unit if unit == "fresh" else f"**{unit}**" for name, unit in endings.items()}
    cells |= dict.fromkeys(result["not_applicable"], "n/a")
    lines = [_row("case", *contenders), _row(*["---"] * (len(contenders) + 1))]
    lines += [_row(case, *(cells[f"{contender}: {case}"] for contender in contenders)) for case in cases]
    lines += ["", "How each contender is played:", ""]
    lines += [f"- **{name}**: {practice}." for name, practice in contenders.items()]
    lines += [
        f"- *n/a* for {who}: {reason}."
        for who, reason in dict.fromkeys((each.split(":")[0], why) for each, why in result["not_applicable"].items())
    ]
    lines += ["", "The steps of each case:", ""]
    return lines + [f"- *{name}*: {text}" for name, text in cases.items()]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _problem(result: Any, name: str) -> str | None:
    """Find what is wrong with a file. None: nothing."""
    if not isinstance(result, dict):
        return "must be a JSON object"
    wanted = {"name", "commit", "date", "machine", "servers", "figures"}
    if missing := wanted - result.keys():
        return f"lacks {', '.join(sorted(missing))}"
    if result["name"] != name:
        return f"its name must be that of the file, and is {result['name']!r}"
    for figure in result["figures"]:
        if missing := {"figure", "value", "unit", "target", "held"} - figure.keys():
            return f"a figure lacks {', '.join(sorted(missing))}"
        if figure["held"] not in _HELD:
            return f"held must be true, false or null, and is {figure['held']!r}"
    return None


def _number(value: object) -> str:
    """A value as the file has it: it is rounded there already."""
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _versions(found: Mapping[str, Any] | list[Any]) -> list[str]:
    if isinstance(found, list):
        return [str(each) for each in found]
    return [f"{name} {version}" for name, version in found.items()]


def main() -> int:
    """Fill the pages. With `--check`, only name the pages that would change, with status 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if a page is out of date")
    check = parser.parse_args().check
    changed = []
    for page in pages():
        text = page.read_text("utf-8")
        new = filled(text)
        if new != text:
            changed.append(page.relative_to(ROOT))
            if not check:
                page.write_text(new, "utf-8")
    for page in changed:
        print(f"{page}: {'out of date; run python scripts/figures.py' if check else 'figures brought up to date'}")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
