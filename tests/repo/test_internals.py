"""The internals of Celery, kombu and py-amqp: the listed ones exist as relied on, and the code uses no others."""

import inspect
import itertools
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import amqp
import kombu.transport.redis
import pytest
from celery.app.defaults import SETTING_KEYS
from packaging.requirements import Requirement
from packaging.version import Version

from cachekeeper.consuming.celery_app import _configuration
from testkit.compose import ROOT
from tests.repo.internals import checking
from tests.repo.internals.checking import Internal, NotThere, not_set, problem, resolve
from tests.repo.internals.finder import Use, definitions, uses
from tests.repo.internals.listed import INTERNALS

PACKAGES = ("cachekeeper", "lookups", "producers", "worker")
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
OWN = {name for source in SOURCES.values() for name in definitions(source)}
CONSUMER = "cachekeeper/consuming/consumer.py"


def unlisted(found: list[Use]) -> list[Use]:
    """The uses that the list does not name for their file."""
    named = {(each.file, each.name) for each in INTERNALS}
    named |= {(each.file, f".{each.attribute}") for each in INTERNALS}
    named |= {(each.file, f"setting:{name}") for each in found for name in SETTING_KEYS}
    return [each for each in found if (each.file, each.name) not in named]


def uses_in(file: str, source: str) -> list[Use]:
    return sorted(uses(source, file, OWN))


# --- the installed versions against the list


@pytest.mark.parametrize("internal", INTERNALS, ids=lambda each: f"{each.file.rpartition('/')[2]}-{each.name}")
def test_the_internals_are_as_we_rely_on(internal: Internal) -> None:
    assert problem(internal) is None


THERE = "celery.worker.consumer:Consumer"


@pytest.mark.parametrize(
    ("internal", "wrong"),
    [
        (Internal(CONSUMER, "celery.no_such_module:Consumer"), "there is no module celery.no_such_module"),
        (Internal(CONSUMER, f"{THERE}.on_closing"), "celery.worker.consumer.Consumer has no on_closing"),
        (Internal(CONSUMER, f"{THERE}.on_closing", assigned=True), "does not set on_closing on its objects"),
        (Internal(CONSUMER, f"{THERE}.restart_count", "self"), "it cannot be called"),
        (Internal(CONSUMER, f"{THERE}.on_close", "self, reason"), "its parameters are (self), and self, reason are"),
        (Internal(CONSUMER, f"{THERE}.on_decode_error", "self, exc, message"), "are relied on"),
        (Internal(CONSUMER, f"{THERE}.on_decode_error", "self, message"), "it has more parameters"),
        (Internal(CONSUMER, f"{THERE}.on_decode_error", "self, …"), "it needs message, exc too"),
        (Internal(CONSUMER, f"{THERE}.on_decode_error", "self, …, message, exc, why"), "it takes no why"),
    ],
)
def test_an_internal_that_has_changed_is_told_with_the_file_that_uses_it(internal: Internal, wrong: str) -> None:
    told = problem(internal)
    assert told is not None
    assert wrong in told
    assert internal.name in told
    assert told.endswith(f"{CONSUMER} uses it")


NUMBERS = itertools.count()  # of modules: Python imports each name once


@pytest.fixture
def not_set_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str | None]:
    """What `not_set` says of `Connection.wanted`, in a module that holds the given text."""

    def ask(text: str) -> str | None:
        module = f"with_internals_{next(NUMBERS)}"
        (tmp_path / f"{module}.py").write_text(text, "utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return not_set(f"{module}:Connection.wanted")

    return ask


@pytest.mark.parametrize(
    "statement",
    [
        "self.wanted = None",
        "self.wanted: int = 1",
        "self.other = self.wanted = 1",
        "self.other, self.wanted = 1, 2",
        "[self.other, (self.wanted, *_)] = 1, (2, 3)",
        "c.wanted = 1",
        "if c:\n            self.wanted = 1",
    ],
)
def test_what_a_method_assigns_is_set(statement: str, not_set_in: Callable[[str], str | None]) -> None:
    assert not_set_in(f"class Connection:\n    def connect(self, c):\n        {statement}\n") is None


@pytest.mark.parametrize(
    "statement", ["wanted = None", "wanted: int", "@property\n    def wanted(self):\n        return 1"]
)
def test_what_the_body_of_a_class_declares_is_set(statement: str, not_set_in: Callable[[str], str | None]) -> None:
    assert not_set_in(f"class Connection:\n    {statement}\n") is None


def test_what_the_class_above_assigns_is_set(not_set_in: Callable[[str], str | None]) -> None:
    above = "class Above:\n    def __init__(self):\n        self.wanted = 1\n"
    assert not_set_in(f"{above}class Connection(Above):\n    pass\n") is None
    assert not_set_in(f"{above}class Connection:\n    pass\n") is not None


@pytest.mark.parametrize(
    "statement",
    [
        "self.wanted.name = 1",
        "self.wanted[0] = 1",
        "assert self.wanted != 1",
        "assert self.wanted <= 1",
        "print(self.wanted, end=' ')",
        "self.other[self.wanted] = 1",
        "self.wanted += 1",
        "self.wanted: int",
        "c.d.wanted = 1",
        "'self.wanted = 1'",
        "pass  # self.wanted = 1",
        "wanted = 1",
        "class Inner:\n            def connect(self):\n                self.wanted = 1",
    ],
)
def test_what_is_only_used_is_not_set(statement: str, not_set_in: Callable[[str], str | None]) -> None:
    told = not_set_in(f"class Connection:\n    def connect(self, c):\n        {statement}\n")
    assert told is not None
    assert told.endswith("does not set wanted on its objects")


def test_a_method_is_no_attribute_that_is_set(not_set_in: Callable[[str], str | None]) -> None:
    assert not_set_in("class Connection:\n    def wanted(self):\n        pass\n") is not None


def test_names_are_followed_into_modules_that_nobody_has_imported() -> None:
    assert inspect.ismodule(resolve("celery:bootsteps"))
    with pytest.raises(NotThere, match="celery has no stepsboots"):
        resolve("celery:stepsboots")


@pytest.mark.parametrize("url", ["redis://broker", "amqp://broker"])
def test_every_setting_of_ours_is_one_of_celery(url: str) -> None:
    # Celery takes any name, and says nothing of one that it does not know.
    assert set(_configuration(url)) - {*SETTING_KEYS, "worker_consumer"} == set()


def test_every_option_of_the_transport_is_one_of_kombu_or_amqp() -> None:
    # kombu says nothing of one that it does not know, either.
    redis_options = _configuration("redis://broker")["broker_transport_options"]
    assert redis_options.keys() <= set(kombu.transport.redis.Channel.from_transport_options)
    amqp_options = _configuration("amqp://broker")["broker_transport_options"]
    assert amqp_options.keys() | {"confirm_publish"} <= inspect.signature(amqp.Connection.__init__).parameters.keys()


# --- the code against the list


@pytest.mark.parametrize("file", SOURCES)
def test_every_internal_that_the_code_uses_is_listed(file: str) -> None:
    assert unlisted(uses_in(file, SOURCES[file])) == [], (
        "name it in tests/repo/internals/listed.py, and what is relied on"
    )


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("from celery.worker import state", "from celery.worker import control, state", "celery.worker:control"),
        ("self.task_consumer.cancel()", "self.task_consumer.cancel_by_queue('x')", ".cancel_by_queue"),
        ("def on_close(self) -> None:", "def on_ready(self) -> None:", f"{THERE}.on_ready"),
        ("def on_close(self) -> None:", "def qos_global(self) -> None:", f"{THERE}.qos_global"),
        ("message.ack()", "message._payload()", "._payload"),
        ("tasks:Tasks", "tasks:Jobs", "celery.worker.consumer.tasks:Jobs"),
        ("self._batcher = ", "self._restart_state = ", f"{THERE}._restart_state"),
        ("conf.control_exchange", "conf.control_room", "setting:control_room"),
    ],
)
def test_an_internal_that_is_not_listed_is_found(old: str, new: str, name: str) -> None:
    source = SOURCES[CONSUMER]
    assert old in source
    assert name in {each.name for each in unlisted(uses_in(CONSUMER, source.replace(old, new)))}


@pytest.mark.parametrize("client", ["redis", "pymongo"])
def test_a_private_name_of_any_library_is_found(client: str) -> None:
    source = f"import {client}\n\ndef reset(client: {client}.Any) -> None:\n    client._topology.reset()\n"
    assert [each.name for each in unlisted(uses_in("cachekeeper/connections/redis_clients.py", source))] == [
        "._topology"
    ]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from redis import ConnectionPool as P\nclass Pool(P):\n def close(self): ...", "redis:ConnectionPool.close"),
        ("import redis\nclass Pool(redis.ConnectionPool):\n def close(self): ...", "redis:ConnectionPool.close"),
        ("import kombu\nclass Connection(kombu.Connection):\n def close(self): ...", "kombu:Connection.close"),
    ],
)
def test_a_method_that_is_replaced_is_found(source: str, name: str) -> None:
    assert name in {each.name for each in unlisted(uses_in("cachekeeper/connections/redis_clients.py", source))}


def test_a_name_in_a_comment_or_a_docstring_is_not_used() -> None:
    source = '"""One."""\n\n# two\ndef three(four="five"):\n    # six\n    """Seven."""\n    return [\n"eight"]\n'
    assert set(checking.words(source)) - {"def", "return"} == {"three", "four", "five", "eight"}


def test_the_list_names_nothing_that_is_not_used() -> None:
    words = {file: set(checking.words(source)) for file, source in SOURCES.items()}
    assert [each.name for each in INTERNALS if each.attribute not in words[each.file]] == []
    assert len({(each.file, each.name) for each in INTERNALS}) == len(INTERNALS)


# --- the versions


def test_the_libraries_are_pinned_to_the_minor_version_of_which_the_internals_are_used() -> None:
    texts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    ranges = {each.name: each.specifier for each in map(Requirement, texts)}
    for name in ("amqp", "celery", "kombu"):
        installed = Version(version(name))
        assert ranges[name].contains(installed)
        assert ranges[name].contains(f"{installed.major}.{installed.minor}.99")
        assert not ranges[name].contains(f"{installed.major}.{installed.minor + 1}.0")
        assert not ranges[name].contains(f"{installed.major}.{installed.minor - 1}.99")
