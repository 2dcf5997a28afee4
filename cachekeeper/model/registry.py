"""What is registered: views, events and their handlers, by the modules that the setting names."""

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
from cachekeeper.model.views import AnyView, BlocklistView
from cachekeeper.settings import DEFAULT_MODULES, PolicySettings, Settings, load

E = TypeVar("E", bound=Event)
S = TypeVar("S", bound=Settings | PolicySettings)
Handler = Callable[[Any], Iterable[Command]]


@dataclass(frozen=True, slots=True)
class TtlIndex:
    """MongoDB removes documents of `collection` so many seconds after their date `field`.

    Attributes:
        collection: its name.
        field: a date field; documents without one stay.
        seconds: from the settings to how much later than that date.
    """

    collection: str
    field: str
    seconds: Callable[[Settings], float]


class Registry:
    """Views, events and handlers that fit together.

    `CollectionChanged` is there from the start: whoever says that a collection changed need not know its views.
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
            RegistrationError: another view has its name, or keys that could be of both.
        """
        for other in self.views.values():
            if other.name == view.name:
                raise RegistrationError(f"view {view.name}: another view has that name")
            if other.template.meets(view.template):
                raise RegistrationError(
                    f"view {view.name}: its key {view.key!r} could meet {other.key!r} of view {other.name}"
                )
        self.views[view.name] = view

    def add_event(self, event: type[Event]) -> None:
        """Register an event class, by the default of its `type`.

        Raises:
            RegistrationError: it has no type of its own, another class has it, or JSON would change some of its fields;
                each is named, with the cure.
        """
        name = event.model_fields["type"].default
        if not isinstance(name, str) or not name:
            raise RegistrationError(f"event {event.__name__}: give its field 'type' a default, such as 'order.changed'")
        if name in self.events:
            raise RegistrationError(
                f"event {event.__name__}: {self.events[name].__name__} has the type {name!r} already"
            )
        if problems := unfit_fields(event):
            raise RegistrationError(f"event {event.__name__}: " + "; ".join(problems))
        self.events[name] = event

    def add_handler(self, event: type[E], handler: Callable[[E], Iterable[Command]]) -> None:
        """Register the handler of an event class, which must be registered.

        Raises:
            RegistrationError: the event is unknown, or has a handler.
        """
        if event not in self.events.values():
            raise RegistrationError(f"handler {handler.__name__}: register the event {event.__name__} first")
        if event in self.handlers:
            raise RegistrationError(f"handler {handler.__name__}: {event.__name__} has a handler already")
        self.handlers[event] = handler

    def add_index(self, index: TtlIndex) -> None:
        """Register an index that the worker makes when it starts."""
        self.indexes.append(index)

    def add_watch(self, watch: Watch) -> None:
        """Register what the changes of a collection mean, for the change stream.

        Raises:
            RegistrationError: another one watches that collection.
        """
        if watch.collection in self.watches:
            raise RegistrationError(f"watch {watch.collection}: that collection is watched already")
        self.watches[watch.collection] = watch

    def decode(self, body: object) -> Event:
        """Read one event as it came over the wire.

        Raises:
            UnknownEvent: nothing registered has its type.
            InvalidEvent: it is no object, or a field is missing or wrong.
        """
        if not isinstance(body, Mapping):
            raise InvalidEvent("event", f"must be an object, got {type(body).__name__}")
        kind = body.get("type")
        if kind is None:
            raise InvalidEvent("type", "is missing")
        event = self.events.get(kind) if isinstance(kind, str) else None
        if event is None:
            raise UnknownEvent("type", f"is not a registered event; these are: {', '.join(sorted(self.events))}")
        return event.from_wire(body)

    def commands(self, event: Event) -> list[Command]:
        """What the event's handler asks for; nothing where it has no handler."""
        handler = self.handlers.get(type(event))
        return [] if handler is None else list(handler(event))

    def check(self, settings: Settings | PolicySettings) -> None:
        """Hold settings that name views against the views there are.

        Raises:
            SettingsError: `ID_TYPES` names no view with ids of a type.
        """
        typed = sorted(view.name for view in self.views.values() if view.ids is not None)
        unknown = sorted(set(settings.id_types) - set(typed))
        if unknown:
            raise SettingsError(
                f"CACHEKEEPER_ID_TYPES: no view with ids is named {', '.join(unknown)}; there are: {', '.join(typed)}"
            )

    @property
    def blocklists(self) -> list[BlocklistView]:
        """The views that must be kept ready."""
        return [view for view in self.views.values() if isinstance(view, BlocklistView)]

    def view(self, name: str) -> AnyView:
        """The view of that name.

        Raises:
            RegistrationError: there is none.
        """
        try:
            return self.views[name]
        except KeyError:
            raise RegistrationError(f"no view {name!r}; there are: {', '.join(sorted(self.views))}") from None

    def _on_collection_changed(self, event: CollectionChanged) -> Iterator[Command]:
        for view in self.views.values():
            if event.collection == view.collection:
                yield InvalidateAll(view, "anything in its collection may have changed")


def load_registry(modules: Iterable[str]) -> Registry:
    """Import the modules and let each register what it has.

    Args:
        modules: package names, from the setting `MODULES`; each has a function `register(registry)`.

    Raises:
        SettingsError: modules are named twice, cannot be found, or have no `register`; all of these are named.
        RegistrationError: what they register does not fit together.
    """
    modules = tuple(modules)
    repeated = sorted({name for name in modules if modules.count(name) > 1})
    problems = [f"{name!r} is there twice; name each module once" for name in repeated]
    found: list[Callable[[Registry], object]] = []
    ours = modules if modules == DEFAULT_MODULES else ()  # all of them first: they import each other
    for step, names in ((_import_ours, ours), (lambda name: found.append(_register_of(name)), dict.fromkeys(modules))):
        for name in names:
            try:
                step(name)
            except _Unusable as error:
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
        raise _Unusable(f"{name!r} is no module's full name")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        # Only the named module itself: one that it imports in vain is an error of its own.
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise _Unusable(f"there is no module {name!r}") from None
    register = getattr(module, "register", None)
    if not callable(register):
        place = getattr(module, "__file__", None) or "a namespace"
        raise _Unusable(f"module {name!r} ({place}) has no function register(registry)")
    return cast("Callable[[Registry], object]", register)


def _import_ours(name: str) -> None:
    """Import a package that stands beside this one, whatever else is found under its name in the working directory.

    Raises:
        _Unusable: a module of another project has been imported under that name already.
    """
    beside = str(Path(__file__).parents[2])
    spec = PathFinder.find_spec(name, [beside])
    if spec is None or spec.loader is None or spec.origin is None:
        return  # not installed beside it: found as any module is
    if name in sys.modules:
        found = getattr(sys.modules[name], "__file__", None)
        if found is None or Path(found).resolve() != Path(spec.origin).resolve():
            raise _Unusable(
                f"the module {name!r} of this process is {found or 'a namespace'}, and hides "
                "cachekeeper's: rename it, or name the modules that you want"
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
    """The settings of this process's environment, and what their modules register, held against each other.

    Args:
        kind: which settings.

    Raises:
        SettingsError: names every variable at fault, those included that only what is registered shows to be wrong.
        RegistrationError: what the modules register does not fit together.
    """
    try:
        settings = load(kind)
    except SettingsError as error:
        try:
            policy = load(PolicySettings)
        except SettingsError:
            raise error from None  # the faults of these are among those told
        try:
            load_registry(policy.modules).check(policy)
        except SettingsError as another:
            raise SettingsError("\n  ".join([str(error), *str(another).splitlines()])) from None
        raise
    registry = load_registry(settings.modules)
    registry.check(settings)
    return settings, registry
