"""Finds where an exception could vanish: caught, and on some path neither raised, nor logged or counted, nor handed on.

It knows no types and follows no calls. So it is strict where it cannot know: what is caught by a name that it cannot
place counts as anything.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

# What a server that is away raises, and what everything is.
BROAD = {
    "",  # a bare except
    "BaseException",
    "BrokerUnavailable",
    "CachekeeperError",
    "CacheUnavailable",
    "ConnectionError",
    "DatabaseUnavailable",
    "Exception",
    "KombuError",
    "OperationalError",
    "PyMongoError",
    "RedisClusterException",
    "RedisError",
    "Unavailable",
}
_LOGS = {"warning", "error", "critical", "exception"}
# They look at an error and keep nothing of it.
_LOOKS = {"format", "hasattr", "isinstance", "issubclass", "len", "repr", "str", "type"}
_RECORDS = {"log_once", "log_failure", "COUNTERS.add"}
_ENDS = {"sys.exit", "os._exit", "os.kill", "exit"}
_LEAVES = ast.Return | ast.Break | ast.Continue
_SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef


@dataclass(frozen=True, slots=True)
class SwallowingPlace:
    """Where an exception may vanish.

    Attributes:
        file: as given.
        function: its dotted name; empty for the module.
        caught: the source of what is caught, or which construct it is.
        line: for whoever looks.
    """

    file: str
    function: str
    caught: str
    line: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What stays the same when lines move."""
        return self.file, self.function, self.caught


def swallowed(source: str, file: str, *, every: bool = False) -> Iterator[SwallowingPlace]:
    """The places of a module.

    Args:
        source: its text.
        file: how to call it.
        every: look at every `except`, not at those alone that catch much.
    """
    yield from _walk(ast.parse(source), (), file, every=every)


def _walk(node: ast.AST, function: tuple[str, ...], file: str, *, every: bool) -> Iterator[SwallowingPlace]:
    for child in ast.iter_child_nodes(node):
        inside = (
            (*function, child.name)
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            else function
        )
        where = ".".join(inside)
        if isinstance(child, ast.ExceptHandler):
            caught = "" if child.type is None else ast.unparse(child.type)
            if (every or _is_broad(child.type)) and not _covers(child.body, child.name):
                yield SwallowingPlace(file, where, caught, child.lineno)
        elif isinstance(child, ast.Try | ast.TryStar) and any(map(_leaves, child.finalbody)):
            # `return` in a `finally` drops what is on its way.
            yield SwallowingPlace(file, where, "finally", child.finalbody[0].lineno)
        elif isinstance(child, ast.Call):
            name = ast.unparse(child.func).rpartition(".")[2]
            is_kombus = name == "ignore_errors"  # all that a connection may raise
            if is_kombus or (name == "suppress" and (every or any(map(_is_broad, child.args)))):
                yield SwallowingPlace(file, where, ast.unparse(child), child.lineno)
            if any(word.arg == "return_exceptions" for word in child.keywords):
                yield SwallowingPlace(file, where, "return_exceptions", child.lineno)
        elif _is_exit(child) and any(
            isinstance(part, ast.Return) and not _is_nothing(part.value) for part in ast.walk(child)
        ):
            # What it returns, if true, drops the exception.
            yield SwallowingPlace(file, where, "__exit__", child.lineno)
        yield from _walk(child, inside, file, every=every)


def _is_exit(node: ast.AST) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef]:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in {"__exit__", "__aexit__"}


def _is_nothing(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and not value.value)


def _is_broad(caught: ast.expr | None) -> bool:
    match caught:
        case None:
            return True
        case ast.Tuple():
            return any(map(_is_broad, caught.elts))
        case ast.Name() | ast.Attribute():
            whole = ast.unparse(caught)
            name = whole.rpartition(".")[2]
            # A class is written with a capital; a variable may hold anything.
            return name in BROAD or not (name.lstrip("_")[:1].isupper() or whole == "struct.error")
        case _:
            return True  # `*self._errors()`, a call, ...


def _covers(body: Sequence[ast.stmt], error: str | None) -> bool:
    """Whether every path through these statements raises, records or hands on."""
    for statement in body:
        if _covered(statement, error):
            return True
        if _leaves(statement):
            return False
    return False


def _covered(statement: ast.stmt, error: str | None) -> bool:  # noqa: PLR0911  # one line a kind of statement
    match statement:
        case ast.Raise():
            return True
        case ast.If():
            return _covers(statement.body, error) and _covers(statement.orelse, error)
        case ast.With() | ast.AsyncWith():
            return _covers(statement.body, error)
        case ast.Try() | ast.TryStar():
            handled = all(_covers(handler.body, error) for handler in statement.handlers)
            return _covers(statement.finalbody, error) or (_covers(statement.body, error) and handled)
        case ast.For() | ast.AsyncFor() | ast.While() | ast.Match():
            return False  # perhaps never
        case ast.Return():
            return _mentions(statement.value, error) or _records(statement, error)
        case ast.Assign(targets=[ast.Attribute()], value=ast.Name(id=name)) if name == error:
            return True  # kept where others look
        case _:
            return _records(statement, error)


def _records(statement: ast.stmt, error: str | None) -> bool:
    for node in _own_nodes(statement):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        owner, _, name = called.rpartition(".")
        if called in _ENDS | _RECORDS:
            return True
        if name in _LOGS and owner.rpartition(".")[2] in {"logger", "logging"}:
            return True
        given = [*node.args, *(word.value for word in node.keywords)]
        if called not in _LOOKS and any(isinstance(part, ast.Name) and part.id == error for part in given):
            return True
    return False


def _mentions(value: ast.AST | None, error: str | None) -> bool:
    return value is not None and any(isinstance(node, ast.Name) and node.id == error for node in ast.walk(value))


def _leaves(statement: ast.stmt) -> bool:
    return any(isinstance(node, _LEAVES) for node in _own_nodes(statement))


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """A node and what is in it, but no function that is only defined there."""
    yield node
    if not isinstance(node, _SCOPES):
        for child in ast.iter_child_nodes(node):
            yield from _own_nodes(child)
