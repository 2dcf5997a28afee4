"""Whether an internal is there, in the form that is relied on."""

import ast
import inspect
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from io import StringIO
from typing import Any

_MORE = "…"


@dataclass(frozen=True, slots=True)
class Internal:
    """Something of a library that a file of ours relies on.

    Attributes:
        file: ours.
        name: `module:Class.attribute`.
        parameters: of a callable, the parameters that our code relies on. `self, a, b`: exactly these, in this order.
            With `…` there may be more, if they have defaults; our code passes those behind `…` by name.
        assigned: True if it is the objects of the class that have the attribute, see `not_set`.
    """

    file: str
    name: str
    parameters: str | None = None
    assigned: bool = False

    @property
    def attribute(self) -> str:
        """Its last name."""
        return re.split(r"[.:]", self.name)[-1]


class NotThere(Exception):
    """A name stands for nothing; the message says which part is missing."""


def resolve(name: str) -> Any:
    """What `module:Class.attribute` stands for.

    Raises:
        NotThere: nothing.
    """
    module, _, path = name.partition(":")
    try:
        found: Any = import_module(module)
    except ImportError:
        raise NotThere(f"there is no module {module}") from None
    at = module
    for part in filter(None, path.split(".")):
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = import_module(f"{at}.{part}")  # a module that nobody has imported yet
            except ImportError:
                raise NotThere(f"{at} has no {part}") from None
        at = f"{at}.{part}"
    return found


def not_set(name: str) -> str | None:
    """Why the objects of a class do not have an attribute; None if they do.

    They do if a method of the class assigns it to `self`, or if the body of the class declares it: by an assignment, an
    annotation or a property. A step of Celery's consumer assigns it to the consumer, which it calls `c`.

    Args:
        name: `module:Class.attribute`.
    """
    owner, _, attribute = name.rpartition(".")
    for base in inspect.getmro(resolve(owner)):
        if attribute in _attributes(base):
            return None
    return f"{owner} does not set {attribute} on its objects"


@lru_cache
def _attributes(of: type) -> frozenset[str]:
    properties = {name for name, value in vars(of).items() if isinstance(value, property)}
    # Not the source of the class itself, which Python does not find for a step: Celery gives it another name.
    classes = [node for node in _classes(of.__module__) if node.name == of.__name__]
    return frozenset(properties).union(*(_assigned(part, in_body=True) for node in classes for part in node.body))


@lru_cache
def _classes(module: str) -> tuple[ast.ClassDef, ...]:
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except TypeError:  # a module that is built in
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def _assigned(node: ast.AST, *, in_body: bool) -> Iterator[str]:
    """The names that a part of a class assigns to attributes of its objects.

    Args:
        node: the part.
        in_body: whether it stands in the body of the class; else in a method.
    """
    if isinstance(node, ast.ClassDef):
        return  # its methods have another `self`
    in_body = in_body and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign) and (in_body or node.value is not None):
        targets = [node.target]
    else:
        targets = []
    # A target may be several: `self.a, self.b = ...`. What is stored into is the end of `self.a.b` or `self.a[0]`.
    for target in (part for each in targets for part in ast.walk(each)):
        if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store) and in_body:
            yield target.id
        elif isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store) and _is_object(target.value):
            yield target.attr
    for part in ast.iter_child_nodes(node):
        yield from _assigned(part, in_body=in_body)


def _is_object(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in {"self", "c"}


def problem(internal: Internal) -> str | None:
    """What has changed in an internal, and which file of ours uses it; None if it is as relied on."""
    try:
        wrong = not_set(internal.name) if internal.assigned else _wrong(internal)
    except NotThere as error:
        wrong = str(error)
    return wrong and f"{internal.name}: {wrong}. {internal.file} uses it"


def _wrong(internal: Internal) -> str | None:
    found = resolve(internal.name)
    if internal.parameters is None:
        return None
    if not callable(found):
        return "it cannot be called"
    return _parameters(inspect.signature(found), internal.parameters)


def _parameters(signature: inspect.Signature, relied_on: str) -> str | None:
    wanted = [part.strip() for part in relied_on.split(",") if part.strip()]
    cut = wanted.index(_MORE) if _MORE in wanted else len(wanted)
    first, by_name = wanted[:cut], wanted[cut + 1 :]
    parameters = [*signature.parameters.values()]
    has = [_spelt(each) for each in parameters]
    if has[: len(first)] != first:
        return f"its parameters are {signature}, and {relied_on} are relied on"
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    further = parameters[len(first) :]
    names = {each.name for each in further if each.kind in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}}
    if missing := [name for name in by_name if name not in names and not takes_any]:
        return f"it takes no {', '.join(missing)}: its parameters are {signature}"
    if cut == len(wanted) and further:
        return f"it has more parameters, {signature}, than are relied on: {relied_on}"
    variable = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    needed = [
        each.name
        for each in further
        if each.default is each.empty and each.kind not in variable and each.name not in by_name
    ]
    return f"it needs {', '.join(needed)} too: its parameters are {signature}" if needed else None


def _spelt(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    return f"**{parameter.name}" if parameter.kind is parameter.VAR_KEYWORD else parameter.name


_BETWEEN_STATEMENTS = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


def words(source: str) -> Iterator[str]:
    """The names in a module and the words in its texts, but not those in comments and docstrings."""
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type in {tokenize.NL, tokenize.COMMENT}:
            continue
        if token.type == tokenize.NAME:
            yield token.string
        elif token.type == tokenize.STRING and before not in _BETWEEN_STATEMENTS:
            yield from re.findall(r"\w+", token.string)
        before = token.type
