"""docs/messages.md against the code: no error text and no log line without its meaning and its cure."""

import pytest

from scripts import messages
from scripts.messages import Entry, Message
from testkit.prose import read

SECTIONS = {name: (messages.collect(name), messages.entries(name)) for name in messages.packages()}


def texts(source: str) -> list[tuple[str, str]]:
    return [(found.kind, found.text) for found in messages.messages(source, "module.py")]


@pytest.mark.parametrize("package", SECTIONS)
def test_every_message_of_the_code_has_a_meaning_and_a_cure(package: str) -> None:
    assert messages.problems(*SECTIONS[package]) == []


def test_there_is_a_file_of_entries_for_each_package_and_no_other() -> None:
    assert {path.stem for path in messages.ENTRIES.glob("*.toml")} == {
        name for name, (found, _) in SECTIONS.items() if found
    }


def test_the_page_is_written_from_the_code_as_it_is() -> None:
    assert read(messages.PAGE) == messages.page(SECTIONS)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("raise InputError('id', 'is gone')", ("InputError", "is gone")),
        ("raise ViewFailed(f'view {view.name}: {error}') from error", ("ViewFailed", "view {view}: {error}")),
        ("logger.error('%d events wait: %s', waiting, error)", ("log: error", "{waiting} events wait: {error}")),
        ("log_once('key', 'view %s: damaged\\n%s', view, where)", ("log: warning", "view {view}: damaged")),
        ("log_failure('%d events wait', waiting, error=error)", ("log", "{waiting} events wait: {error}")),
        ("_CURES = {403: 'grant the user these rights'}", ("part", "grant the user these rights")),
        ("return f'it has no id in {place}' if late else None", ("part", "it has no id in {place}")),
        ("raise Fault('a' if x else 'not of ' + 'this kind')", ("Fault", "not of this kind")),
    ],
)
def test_every_way_to_write_a_message_is_found(source: str, found: tuple[str, str]) -> None:
    assert found in texts(source)


@pytest.mark.parametrize(
    "source",
    [
        "'''A docstring of three words.'''",
        "typer.echo('three words printed')",
        "if text == 'words of another program': pass",
        "_PATTERN = re.compile('the (words) of others')",
        "client.info('memory')",
        "raise Wrong(f'{field}: {problem}')",
        "logger.warning('%s: %s', subject, error)",
        "with cache_errors('reading a value now'): pass",
    ],
)
def test_other_texts_are_not_messages(source: str) -> None:
    assert texts(source) == []


def test_cause_and_cure_side_by_side_in_the_code_are_one_message() -> None:
    (found,) = messages.messages("return 'its host is unknown', 'correct the host'", "module.py")
    assert (found.text, found.cure) == ("its host is unknown", "correct the host")


FOUND = Message("the text of it", "InputError", "", "module.py:1")


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ([], "no entry"),
        ([Entry(("another text",), "m", "c"), Entry((FOUND.text,), "m", "c")], "not in the code"),
        ([Entry((FOUND.text,), "m", "c"), Entry((FOUND.text,), "m", "c")], "entry twice"),
        ([Entry((FOUND.text,), "", "c")], "no meaning or no cure"),
        ([Entry((FOUND.text,), "m", "")], "no meaning or no cure"),
    ],
)
def test_what_is_missing_is_found(written: list[Entry], problem: str) -> None:
    assert messages.problems([FOUND], [Entry((FOUND.text,), "m", "c")]) == []
    assert [each.partition(":")[0] for each in messages.problems([FOUND], written)] == [problem]
