"""Whether an internal is there, in the form that is relied on."""

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
        assigned: True if the class itself does not have the attribute, but sets it on its objects.
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
    """Why the objects of a class do not have an attribute; None if a method of the class sets it.

    A step of Celery's consumer sets it on the consumer, which it calls `c`.

    Args:
        name: `module:Class.attribute`.
    """
    owner, _, attribute = name.rpartition(".")
    assignment = re.compile(rf"\b(?:self|c)\.{attribute}\b[^=\n]*=[^=]")
    for base in inspect.getmro(resolve(owner)):
        if assignment.search(_source(base)):
            return None
    return f"{owner} does not set {attribute} on its objects"


@lru_cache
def _source(of: type) -> str:
    try:
        return inspect.getsource(of)
    except OSError:  # a step: its metaclass gives it another name than its source has
        return inspect.getsource(sys.modules[of.__module__])
    except TypeError:  # a class that is built in
        return ""


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


def words(source: str) -> Iterator[str]:
    """The names in a module and the words in its texts, but not its comments."""
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield token.string
        elif token.type == tokenize.STRING:
            yield from re.findall(r"\w+", token.string)
