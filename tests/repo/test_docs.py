"""The pages against the code: nothing they name may be missing, nor may a table differ from what it describes."""

import ast
import re
import shlex
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cachekeeper import IdType
from cachekeeper.cli.app import app
from cachekeeper.model import commands
from cachekeeper.upkeep.blocklist_warming import Passed
from testkit.compose import ROOT
from testkit.prose import PAGES, README, VARIABLES, anchors, blocks, code, links, quotes, read, spans, table

PROTOCOL = ROOT / "docs/protocol.md"
CONSISTENCY = ROOT / "docs/consistency.md"
OPERATIONS = ROOT / "docs/operations"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


# --- links and quoted code -------------------------------------------------------------------------------------------


def broken_links(text: str, page: Path) -> list[str]:
    """Relative links that lead nowhere."""
    found = []
    for target in links(text):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            found.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(text if file == page else read(file)):
            found.append(f"{target}: no such heading")
    return found


@each_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert broken_links(read(page), page) == []


@pytest.mark.parametrize(
    "text", ["[x](docs/nothing.md)", "[x](docs/why.md#nothing)", "# Other\n[x](#one)\n", "# One, two\n[x](#one,-two)"]
)
def test_broken_links_are_found(text: str) -> None:
    assert broken_links(text, README)


def unreached(index: Path, pages: set[str], text: str | None = None) -> set[str]:
    """The pages that an index does not link to."""
    return pages - {target.partition("#")[0] for target in links(read(index) if text is None else text)}


def test_every_page_of_docs_is_reached_from_the_readme() -> None:
    wanted = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    wanted |= {"docs/decisions/README.md", "CONTRIBUTING.md", "SECURITY.md"}
    assert unreached(README, wanted) == set()


def test_every_page_of_operations_is_reached_from_its_index() -> None:
    wanted = {f"operations/{page.name}" for page in OPERATIONS.glob("*.md")}
    assert len(wanted) > 5
    assert unreached(ROOT / "docs/operations.md", wanted) == set()
    assert unreached(ROOT / "docs/operations.md", wanted, "[x](operations/servers.md)") == wanted - {
        "operations/servers.md"
    }


def decisions_problems(index: str, pages: dict[str, str]) -> list[str]:
    """What is wrong with the pages of decisions: their numbers, their parts, the list of them."""
    numbers = [name[:5] for name in sorted(pages)]
    found = [] if numbers == [f"{n:04}-" for n in range(1, len(pages) + 1)] else ["the numbers have a gap"]
    for name, text in pages.items():
        parts = re.findall(r"^## (.*)$", text, re.MULTILINE)
        if parts != ["Context", "Decision", "Price"]:
            found.append(f"{name}: its parts are {parts}")
        if not text.startswith(f"# {int(name[:4])}. "):
            found.append(f"{name}: its title has another number")
    return found + [f"{name} is not in the list" for name in pages if name not in links(index)]


DECISIONS = ROOT / "docs/decisions"
DECIDED = {page.name: read(page) for page in DECISIONS.glob("0*.md")}


def test_each_decision_is_listed_and_says_why_and_at_what_price() -> None:
    assert decisions_problems(read(DECISIONS / "README.md"), DECIDED) == []


@pytest.mark.parametrize(
    ("good", "bad"), [("# 1. ", "# 2. "), ("## Price", "## Cost"), ("## Context", "Context")], ids=str.strip
)
def test_a_wrong_decision_is_found(good: str, bad: str) -> None:
    first = min(DECIDED)
    assert good in DECIDED[first]
    assert decisions_problems(read(DECISIONS / "README.md"), {**DECIDED, first: DECIDED[first].replace(good, bad)})


def test_a_decision_that_is_not_listed_is_found() -> None:
    assert len(decisions_problems("", DECIDED)) == len(DECIDED)
    assert decisions_problems(read(DECISIONS / "README.md"), {**DECIDED, "0099-new.md": "# 99. New\n"})


def misquoted(text: str, page: Path) -> list[str]:
    """Code that a page quotes from a file which does not hold it (any more)."""
    found = []
    for quoted, target in quotes(text):
        held = " ".join((page.parent / target).read_text("utf-8").split())
        if " ".join(quoted.split()) not in held:
            found.append(f"{target}: {quoted}")
    return found


@each_page
def test_quoted_code_stands_in_its_file(page: Path) -> None:
    assert misquoted(read(page), page) == []


def test_each_race_names_the_line_that_closes_it() -> None:
    races = re.split(r"^\*\*(\d+)\. ", read(PROTOCOL).partition("## Where each is")[0], flags=re.MULTILINE)[1:]
    assert races[::2] == [str(number) for number in range(1, len(races) // 2 + 1)]
    assert len(races) // 2 >= 17
    assert [number for number, text in zip(races[::2], races[1::2], strict=True) if not quotes(text)] == []


def unclosed_promises(text: str) -> list[str]:
    """Those of the six without an interleaving that would break them, or without the line that closes it."""
    found = re.split(r"^### (\d+)\. ", text.partition("## What stays open")[0], flags=re.MULTILINE)[1:]
    promises = dict(zip(found[::2], found[1::2], strict=True))
    missing = [number for number in "123456" if number not in promises]
    return missing + [number for number, each in promises.items() if "\n```text\n" not in each or not quotes(each)]


def test_each_promise_names_what_would_break_it_and_the_line_that_closes_it() -> None:
    assert unclosed_promises(read(CONSISTENCY)) == []


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("records)` in [processor.py]", "records)`, see [processor.py]"),
        ("```text\nservice: commit", "```\nservice: commit"),
        ("### 3. ", "### Third, "),
    ],
    ids=["no line", "no interleaving", "not there"],
)
def test_an_unclosed_promise_is_found(good: str, bad: str) -> None:
    text = read(CONSISTENCY)
    assert good in text
    assert unclosed_promises(text.replace(good, bad)) == ["3"]


def test_each_script_is_explained() -> None:
    steps = " ".join(cell for row in table(read(PROTOCOL), "step") for cell in row)
    scripts = {path.stem for path in (ROOT / "cachekeeper/protocol/lua").glob("*.lua")} - {"prelude", "texts"}
    assert {script for script in scripts if f"`{script}`" not in steps} == set()


def test_misquoted_code_is_found() -> None:
    text = read(PROTOCOL)
    assert misquoted(text.replace("'lost'", "'last'"), PROTOCOL)
    assert misquoted(text.replace("range(2)", "range(1)"), PROTOCOL)


# --- commands and names ----------------------------------------------------------------------------------------------

TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
CLI: Any = typer.main.get_command(app)  # of the Click that Typer brings, or of Celery's
COMMANDS: dict[str, Any] = CLI.commands
# What is not ours to check; the rest of the line is.
OTHERS = {"celery", "docker", "eval", "npm", "python", "GET", "EXISTS", "MULTI", "EXEC", "SET", "DEL"}


def cli_problem(words: list[str]) -> str | None:
    """Why `cachekeeper WORDS` could not be run."""
    name, *rest = words
    command = CLI if name.startswith("-") else COMMANDS.get(name)
    if command is None:
        return f"cachekeeper has no command {name}"
    if rest and (inner := getattr(command, "commands", {}).get(rest[0])):
        command = inner
    elif hasattr(command, "commands"):
        return f"cachekeeper {name} has no command {' '.join(rest[:1])}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = {word for word in rest if word.startswith("-")} - known - {"--help"}
    return f"cachekeeper {name} has no option {', '.join(sorted(unknown))}" if unknown else None


def command_problem(line: str) -> str | None:  # noqa: C901, PLR0911  # one line a kind of command
    """Why a shell command that a page shows could not be run, or None."""
    words = shlex.split(line, comments=True)
    match words:
        case []:
            return None
        case ["export", assignment]:
            name = assignment.partition("=")[0]
            return None if name in {*VARIABLES, "PYTHONPATH"} else f"no variable {name}"
        case ["make", *rest]:
            unknown = {word for word in rest if "=" not in word} - TARGETS
            return f"no target {', '.join(sorted(unknown))}" if unknown else None
        case ["cachekeeper", *rest]:
            return cli_problem(rest)
        case ["pip", "freeze" | "download", *_]:
            return None
        case ["pip", "install", what]:
            extras = set(re.findall(r"[\w-]+", what.partition("[")[2]))
            unknown = extras - PROJECT["optional-dependencies"].keys()
            return f"no extra {', '.join(sorted(unknown))}" if unknown else None
        case [".", ".venv/bin/activate"]:
            return None
        case ["sh" | "python", script, *_] if "/" in script:
            return None if (ROOT / script).is_file() else f"no file {script}"
        case ["python" | ".venv/bin/python", "-m", "benchmarks" | "verification" as package, name]:
            known = re.findall(r'^    "(\w+)": ', read(ROOT / package / "__main__.py"), re.MULTILINE)
            return None if name in known else f"{package} has no {name}"
        case ["python" | ".venv/bin/python", "-m", module, *_]:
            return None if find_spec(module) is not None else f"no module {module}"
        case [name, *_] if name in OTHERS:
            inner = re.search(r"\$\((cachekeeper [^)]*)\)", line)
            return command_problem(inner[1]) if inner else None
    return f"unknown command: {line}"


def command_problems(text: str, page: Path) -> list[str]:
    shown = [line for block in blocks(page, text) if block.language == "sh" for line in block.text.splitlines()]
    shown += [span for span in spans(text) if re.match(r"(make|cachekeeper|pip|sh|python -m) [\w.'-]", span)]
    commands = [part for line in shown for part in line.split(" && ")]
    return [problem for problem in map(command_problem, commands) if problem]


@each_page
def test_every_command_exists(page: Path) -> None:
    assert command_problems(read(page), page) == []


@pytest.mark.parametrize(
    "text",
    [
        "`make demonstration`",
        "```sh\nmake test lint nothing\n```\n",
        "`cachekeeper cool user_name`",
        "`cachekeeper dev --environment`",
        "`cachekeeper dead letters`",
        "`cachekeeper dead list --everything`",
        '```sh\neval "$(cachekeeper dev --environment)"\n```\n',
        "`pip install '.[embeded]'`",
        "`sh scripts/set-up.sh`",
        "```sh\nsh scripts/setup.sh && .venv/bin/python -m demonstration\n```\n",
        "`python -m benchmarks wrong_keys`",
        "```sh\nexport CACHEKEEPER_CACHE_URL=redis://\n```\n",
        "```sh\nsudo rm -rf /\n```\n",
    ],
)
def test_commands_that_do_not_exist_are_found(text: str) -> None:
    assert command_problems(text, README)


def unknown_names(text: str) -> list[str]:
    """Variables and counterparts of ours that a page names and nobody has."""
    return sorted({name for name in re.findall(r"CACHEKEEPER_[A-Z_]*[A-Z]", text) if name not in VARIABLES})


@each_page
def test_every_variable_exists(page: Path) -> None:
    assert unknown_names(read(page)) == []


def test_unknown_variables_are_found() -> None:
    assert unknown_names("`CACHEKEEPER_LEASE_SECOND`") == ["CACHEKEEPER_LEASE_SECOND"]


# --- tables and blocks -----------------------------------------------------------------------------------------------


def test_every_command_of_the_engine_is_explained() -> None:
    named = {code(row[0]) for row in table(read(ROOT / "docs/architecture.md"), "command")}
    assert named == {kind.__name__ for kind in commands.Command.__args__}


# Counters whose names the code builds: the expression, and the names that it can give.
BUILT_COUNTERS = {"f'blocklist_pass_{passed.value}'": {f"blocklist_pass_{passed.value}" for passed in Passed}}


def counted(source: str) -> set[str]:
    """The counters that a module adds to. A built name that is not in `BUILT_COUNTERS` stands as its expression."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(ast.Attribute(ast.Name("COUNTERS"), "add"), [ast.Constant(str(name)), *_]):
                found.add(name)
            case ast.Call(ast.Attribute(ast.Name("COUNTERS"), "add"), [built, *_]):
                if ast.unparse(built) != "self._counter":  # a PeriodicThread's, below
                    found |= BUILT_COUNTERS.get(ast.unparse(built), {ast.unparse(built)})
            case ast.ClassDef(bases=[ast.Name("PeriodicThread"), *_]):
                starts = [each for each in ast.walk(node) if ast.unparse(each).startswith("super().__init__(")]
                found |= {ast.literal_eval(each.args[2]) for each in starts if isinstance(each, ast.Call)}
    return found


def explained_counters(text: str) -> set[str]:
    return {name for row in table(text, "counter") for name in re.findall(r"`(\w+)`", row[0])}


COUNTED = {name for path in (ROOT / "cachekeeper").rglob("*.py") for name in counted(read(path))}
OF_THE_STREAM = explained_counters(read(ROOT / "docs/change-stream.md"))


def test_the_counters_of_the_code_are_those_that_the_pages_explain() -> None:
    explained = explained_counters(read(OPERATIONS / "monitoring.md"))
    assert len(OF_THE_STREAM) == 3
    assert explained & OF_THE_STREAM == set()
    assert COUNTED ^ (explained | OF_THE_STREAM) == set()


@pytest.mark.parametrize("name", ["load", "blocklist_pass_ready", "index_look_failed"])
def test_a_counter_that_is_not_explained_is_found(name: str) -> None:
    text = read(OPERATIONS / "monitoring.md")
    assert name in COUNTED - explained_counters(text.replace(f"`{name}`", "`forgotten`"))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("COUNTERS.add('one')", {"one"}),
        ("COUNTERS.add(\n    'one', 2\n)", {"one"}),
        ("COUNTERS.add(f'one_{two}')", {"f'one_{two}'"}),
        ("COUNTERS.add(name)", {"name"}),
        ("class One(PeriodicThread):\n def __init__(self):\n  super().__init__('a', 'b', 'one')", {"one"}),
    ],
)
def test_a_new_counter_of_the_code_is_found(source: str, names: set[str]) -> None:
    assert counted(source) == names


def test_settings_names_the_types_of_ids_that_there_are() -> None:
    types = table(read(ROOT / "docs/settings.md"), "type")
    assert [code(row[0]).removesuffix(" (default)") for row in types] == [kind.value for kind in IdType]


def test_the_example_has_ten_lines() -> None:
    (example,) = (block for block in blocks(README) if block.mark == "example")
    assert len(example.text.splitlines()) == 10


@each_page
def test_python_blocks_are_run_or_say_why_not(page: Path) -> None:
    """`test_readme.py` and `test_orders_example.py` run them; what nobody runs would rot."""
    for block in blocks(page):
        if block.language in {"python", "pycon", "py"}:
            assert block.language == "python", block
            assert block.mark in {"", "example", "file", "continues", "fragment"}, block
            assert block.mark != "fragment" or block.argument, f"{block}: a fragment says why it is none to run"
