"""The registry of views, events and handlers, filled by the modules that the setting `MODULES` names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, TypeVar, cast

from cachekeeper.errors import InvalidEvent, RegistrationError, SettingsError, UnknownEvent
from cachekeeper.model.changes import Watch
from cachekeeper.model.commands import Command, InvalidateAll
from cachekeeper.model.events import CollectionChanged, Event, unfit_fields
from cachekeeper.model.view_kinds import Holds
from cachekeeper.model.views import AnyView, BlocklistView
from cachekeeper.settings import DEFAULT_MODULES, PolicySettings, Settings, load

E = TypeVar("E", bound=Event)
S = TypeVar("S", bound=Settings | PolicySettings)
Handler = Callable[[Any], Iterable[Command]]


@dataclass(frozen=True, slots=True)
class TtlIndex:
    """An index by which MongoDB removes documents of `collection` a number of seconds after their date `field`.

    Attributes:
        collection: its name.
        field: a date field; documents without it stay.
        seconds: computes that number of seconds from the settings.
    """

    collection: str
    field: str
    seconds: Callable[[Settings], float]


class Registry:
    """Views, events and handlers that fit together.

    `CollectionChanged` is registered from the start, so that its publisher need not know the collection's views.
    """

    def __init__(self) -> None:
        self.views: dict[str, AnyView] = {}
        self.events: dict[str, type[Event]] = {}
        self.handlers: dict[type[Event], Handler] = {}
        self.indexes: list[TtlIndex] = []
        self.watches: dict[str, Watch] = {}
        self.add_event(CollectionChanged)
        self.add_handler(CollectionChanged, self._on_collection_changed)

    def add_view(self, view: AnyView) -> None:
        """Register a view.

        Raises:
            RegistrationError: another view has the same name, or one key could belong to both views.
        """
        for other in self.views.values():
            if other.name == view.name:
                raise RegistrationError(f"view {view.name}: another view has that name; rename one")
            if other.template.meets(view.template):
                raise RegistrationError(
                    f"view {view.name}: its key {view.key!r} could be the same as {other.key!r} of view {other.name}; "
                    "change one of the two"
                )
        self.views[view.name] = view

    def add_event(self, event: type[Event]) -> None:
        """Register an event class under the default of its field `type`.

        Raises:
            RegistrationError: the class has no type of its own, another class has that type, or JSON would change some
                of its fields; the message names each, with the cure.
        """
        name = event.model_fields["type"].default
        if not isinstance(name, str) or not name:
            raise RegistrationError(f"event {event.__name__}: give its field 'type' a default, such as 'order.changed'")
        if name in self.events:
            raise RegistrationError(
                f"event {event.__name__}: {self.events[name].__name__} already has the type {name!r}; use another type"
            )
        if problems := unfit_fields(event):
            raise RegistrationError(f"event {event.__name__}: " + "; ".join(problems))
        self.events[name] = event

    def add_handler(self, event: type[E], handler: Callable[[E], Iterable[Command]]) -> None:
        """Register the handler of an event class. The class must be registered before.

        Raises:
            RegistrationError: the event is not registered, or has a handler already.
        """
        if event not in self.events.values():
            raise RegistrationError(f"handler {handler.__name__}: register the event {event.__name__} first")
        if event in self.handlers:
            raise RegistrationError(
                f"handler {handler.__name__}: {event.__name__} has a handler already; join the two in one function"
            )
        self.handlers[event] = handler

    def add_index(self, index: TtlIndex) -> None:
        """Register an index that the worker creates when it starts."""
        self.indexes.append(index)

    def add_watch(self, watch: Watch) -> None:
        """Register the events that changes of a collection make, for the change stream.

        Raises:
            RegistrationError: another watch is registered for that collection.
        """
        if watch.collection in self.watches:
            raise RegistrationError(
                f"watch {watch.collection}: that collection is watched already; join the two watches in one"
            )
        self.watches[watch.collection] = watch

    def decode(self, body: object) -> Event:
        """Read one event as it came over the wire.

        Raises:
            UnknownEvent: no registered event has its type.
            InvalidEvent: the body is not an object, or a field is missing or wrong.
        """
        if not isinstance(body, Mapping):
            raise InvalidEvent("event", f"must be an object, got {type(body).__name__}")
        kind = body.get("type")
        if kind is None:
            raise InvalidEvent("type", "is missing")
        event = self.events.get(kind) if isinstance(kind, str) else None
        if event is None:
            raise UnknownEvent("type", f"is not a registered event; registered are: {', '.join(sorted(self.events))}")
        return event.from_wire(body)

    def commands(self, event: Event) -> list[Command]:
        """The commands that the event's handler returns; an empty list where it has no handler."""
        handler = self.handlers.get(type(event))
        return [] if handler is None else list(handler(event))

    def check(self, settings: Settings | PolicySettings) -> None:
        """Check the settings that name views against the registered views.

        Raises:
            SettingsError: `ID_TYPES` has a name that is not the name of a view with an id type.
        """
        typed = sorted(view.name for view in self.views.values() if view.ids is not None)
        unknown = sorted(set(settings.id_types) - set(typed))
        if unknown:
            raise SettingsError(
                f"CACHEKEEPER_ID_TYPES: not a view with an id type: {', '.join(unknown)}; use one of: "
                f"{', '.join(typed)}"
            )

    @property
    def blocklists(self) -> list[BlocklistView]:
        """The blocklists. A worker keeps each of them *ready*."""
        return [view for view in self.views.values() if view.holds is Holds.BLOCK]

    def view(self, name: str) -> AnyView:
        """The view of that name.

        Raises:
            RegistrationError: no view has that name.
        """
        try:
            return self.views[name]
        except KeyError:
            raise RegistrationError(f"unknown view {name!r}; use one of: {', '.join(sorted(self.views))}") from None

    def _on_collection_changed(self, event: CollectionChanged) -> Iterator[Command]:
        for view in self.views.values():
            if event.collection == view.collection:
                yield InvalidateAll(view, "anything in its collection may have changed")


def load_registry(modules: Iterable[str]) -> Registry:
    """Import the modules, and call the `register` of each.

    Args:
        modules: package names, from the setting `MODULES`; each has a function `register(registry)`.

    Raises:
        SettingsError: modules are named twice, cannot be found, or have no `register`; all of them are named.
        RegistrationError: two registrations conflict, one lacks another that it needs, or one is wrong by itself.
    """
    modules = tuple(modules)
    repeated = sorted({name for name in modules if modules.count(name) > 1})
    problems = [f"{name!r} is named twice; name each module once" for name in repeated]
    found: list[Callable[[Registry], object]] = []
    try:
        for name in modules if modules == DEFAULT_MODULES else ():
            _import_ours(name)
        for name in dict.fromkeys(modules):
            try:
                found.append(_register_of(name))
            except _Unusable as error:
                problems.append(str(error))
    except _Unusable as error:  # the first is the only one: ours import each other
        problems.append(str(error))
    if problems:
        raise SettingsError("\n".join(f"CACHEKEEPER_MODULES: {problem}" for problem in problems))
    registry = Registry()
    for register in found:
        register(registry)
    return registry


class _Unusable(Exception):  # never leaves this module
    """A module of the setting cannot be used; the text says why."""


def _register_of(name: str) -> Callable[[Registry], object]:
    if not all(part.isidentifier() for part in name.split(".")):
        raise _Unusable(f"{name!r} cannot be a module name; write it like package.module")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        # Only where the named module itself is missing. A missing import inside it is raised unchanged.
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise _Unusable(f"there is no module {name!r}; install it, or correct the name") from None
    register = getattr(module, "register", None)
    if not callable(register):
        place = getattr(module, "__file__", None) or "a namespace"
        raise _Unusable(
            f"module {name!r} ({place}) has no function register(registry); define it, or remove the module from the "
            "list"
        )
    return cast("Callable[[Registry], object]", register)


def _import_ours(name: str) -> None:
    """Import a package that is installed beside this one, even if the working directory has another of that name.

    Raises:
        _Unusable: another project's module of that name is imported already.
    """
    beside = str(Path(__file__).parents[2])
    spec = PathFinder.find_spec(name, [beside])
    if spec is None or spec.loader is None or spec.origin is None:
        return  # not installed beside this one: it is imported like any other module
    if name in sys.modules:
        found = getattr(sys.modules[name], "__file__", None)
        if found is None or Path(found).resolve() != Path(spec.origin).resolve():
            raise _Unusable(
                f"the module {name!r} of this process is {found or 'a namespace'}, which hides "
                "the one of cachekeeper: rename it, or set CACHEKEEPER_MODULES to the modules that you want"
            )
        return
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def load_checked(kind: type[S]) -> tuple[S, Registry]:
    """Load the settings of this process's environment and the registry of their modules, and check them together.

    Args:
        kind: the class of the settings.

    Raises:
        SettingsError: a variable is wrong. The message names all wrong ones, also those that the registry shows.
        RegistrationError: two registrations conflict, one lacks another that it needs, or one is wrong by itself.
    """
    try:
        settings = load(kind)
    except SettingsError as error:
        try:
            policy = load(PolicySettings)
        except SettingsError:
            raise error from None  # `error` has named these faults already
        try:
            load_registry(policy.modules).check(policy)
        except SettingsError as another:
            raise SettingsError("\n  ".join([str(error), *str(another).splitlines()])) from None
        raise
    registry = load_registry(settings.modules)
    registry.check(settings)
    return settings, registry
