"""Finds what the packages use of Celery, kombu, py-amqp and vine, what they replace in classes of these and of
redis-py, and private names of any other library.

It knows no types. In a file that imports one of these libraries, every attribute counts as theirs, except for names
that the project defines, names in an imported module of another library, and names of Python's own types. So it misses
a name that is both: `get` of theirs looks like `get` of a dictionary.
"""

import ast
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.repo.internals.checking import not_set, resolve

LIBRARIES = ("amqp", "billiard", "celery", "kombu", "vine")
_EXTENDED = (*LIBRARIES, "redis")  # redis-py promises its commands, not what its classes call of themselves
_REFERENCE = re.compile(rf"(?:{'|'.join(LIBRARIES)})(?:\.\w+)+:\w+")
_PYTHONS_OWN = {
    name
    for kind in (bytes, dict, set, str, tuple, list, int, deque, BaseException, type(threading.Lock()), property, type)
    for name in dir(kind)
} | {"_asdict", "_replace"}  # of named tuples


@dataclass(frozen=True, order=True, slots=True)
class Use:
    """A place where a library is used.

    Attributes:
        file: as given.
        name: `module:name` of what is imported, `module:Class.name` of what is overridden, `setting:name` of what is
            read from Celery's configuration, `.name` of any other attribute.
        line: for whoever looks.
    """

    file: str
    name: str
    line: int


def definitions(source: str) -> Iterator[str]:
    """The names that a module defines, at any depth, those of attributes that it sets on `self` included.

    An annotation without a value, in a class that extends one of theirs, defines nothing: it only tells mypy.
    """
    tree = ast.parse(source)
    theirs, _ = _imports(tree)
    inherited = {
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(_root(base) in theirs for base in node.bases)
        for part in node.body
        if isinstance(part, ast.AnnAssign) and part.value is None
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign | ast.Assign) and node not in inherited:
            yield from _assigned_to(node)


def uses(source: str, file: str, own: Iterable[str] = ()) -> Iterator[Use]:
    """What a module uses of them.

    Args:
        source: its text.
        file: how to call it.
        own: the names that the project defines.
    """
    tree = ast.parse(source)
    theirs, others = _imports(tree)
    extended, _ = _imports(tree, _EXTENDED)
    for reference, line in theirs.values():
        yield Use(file, reference, line)
    mine = {*definitions(source), *_PYTHONS_OWN}
    known = {*own, *mine}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _REFERENCE.fullmatch(node.value):
            yield Use(file, node.value, node.lineno)
        elif isinstance(node, ast.ClassDef):
            yield from _overridden(node, extended, file)
        elif isinstance(node, ast.Attribute) and _root(node) not in others:
            # Of an object of ours, no private name is used in another file; so there it must be a library's.
            is_private = node.attr.startswith("_") and not node.attr.endswith("__")
            is_strange = node.attr not in (mine if is_private and _root(node) != "self" else known)
            if is_strange and (is_private or theirs):
                is_setting = isinstance(node.value, ast.Attribute) and node.value.attr == "conf"
                yield Use(file, f"{'setting:' if is_setting else '.'}{node.attr}", node.lineno)


def _imports(tree: ast.AST, libraries: tuple[str, ...] = LIBRARIES) -> tuple[dict[str, tuple[str, int]], set[str]]:
    """The names that stand for something of the libraries, with what that is; and those for other modules."""
    theirs: dict[str, tuple[str, int]] = {}
    others: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            for name in node.names:
                if module.partition(".")[0] in libraries:
                    theirs[name.asname or name.name] = (f"{module}:{name.name}", node.lineno)
                else:
                    others.add(name.asname or name.name)
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.partition(".")[0] in libraries:
                    theirs[name.name] = (name.name, node.lineno)
                else:
                    others.add(name.asname or name.name.partition(".")[0])
    return theirs, others


def _overridden(node: ast.ClassDef, theirs: dict[str, tuple[str, int]], file: str) -> Iterator[Use]:
    """What a class replaces in a class of theirs that it extends."""
    for base in node.bases:
        root, *path = ast.unparse(base).partition("[")[0].split(".")
        if root not in theirs:
            continue
        module, _, name = theirs[root][0].partition(":")
        dotted = ".".join(filter(None, [name, *path]))  # of a module that is imported whole, there is no name
        extended = f"{module}:{dotted}"
        for inner in ast.walk(node):
            for replaced in _names(inner, node):
                if hasattr(resolve(extended), replaced) or not_set(f"{extended}.{replaced}") is None:
                    yield Use(file, f"{extended}.{replaced}", node.lineno)


def _names(node: ast.AST, owner: ast.ClassDef) -> Iterator[str]:
    """The names that a node gives to something in a class: in its body, or on `self`."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node in owner.body:
        yield node.name
    elif isinstance(node, ast.Assign) or (isinstance(node, ast.AnnAssign) and node.value is not None):
        yield from _assigned_to(node, names=node in owner.body)


def _assigned_to(node: ast.AnnAssign | ast.Assign, *, names: bool = True) -> Iterator[str]:
    """The attributes of `self`, and the names, that an assignment gives a value."""
    for target in [node.target] if isinstance(node, ast.AnnAssign) else node.targets:
        if isinstance(target, ast.Name) and names:
            yield target.id
        elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
            yield target.attr


def _root(node: ast.expr) -> str | None:
    """The name at the left end of `a.b().c[0]`."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        else:
            return None
    return node.id
