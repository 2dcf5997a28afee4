"""Checks the promises of docker-compose.yml and the Dockerfile on their text: no Docker engine is needed."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml
from pydantic_settings import BaseSettings

from cachekeeper.cli.relay import CHECK_SECONDS
from cachekeeper.relays.stream_health import SIGN_OF_LIFE_SECONDS
from cachekeeper.settings import PREFIX, DoorSettings, RelaySettings, StreamSettings, WorkerSettings

ROOT = Path(__file__).parents[1]
# The variables that hold URLs, and the service to which each must lead.
LEADS_TO = {
    "CACHEKEEPER_REDIS_URL": "cache",
    "CACHEKEEPER_SECURITY_REDIS_URL": "security",
    "CACHEKEEPER_MONGODB_URL": "mongodb",
    "CACHEKEEPER_BROKER_URL": "broker",
}
REDIS_COMMON = {"--save": "", "--appendonly": "no"}
REDIS_POLICY = {"cache": "allkeys-lfu", "security": "noeviction"}
IMAGES = {"cache": "redis:8", "security": "redis:8", "broker": "rabbitmq:4.0", "mongodb": "mongo:8"}
DOOR_PORT = 8080
# Our own programs: their commands, if not that of the image, and the settings that they may be given.
COMMANDS = {
    "relay": ["cachekeeper", "relay"],
    "stream": ["cachekeeper", "stream"],
    "door": ["cachekeeper", "serve", "--host", "0.0.0.0", "--port", str(DOOR_PORT)],
}
PROGRAMS: dict[str, type[BaseSettings]] = {
    "worker": WorkerSettings,
    "relay": RelaySettings,
    "stream": StreamSettings,
    "door": DoorSettings,
}
PORTS = {"cache": 6379, "security": 6379, "broker": 5672, "mongodb": 27017}


def options(command: list[str]) -> dict[str, str]:
    """Return the options of a command: `--name value`, and `--name` alone."""
    found: dict[str, str] = {}
    for word, following in zip(command, [*command[1:], "--"], strict=True):
        if word.startswith("--"):
            found[word] = "" if following.startswith("--") else following
    return found


def exports(text: str) -> dict[str, str]:
    """Return the `export NAME=value` lines of a text, in comments and code blocks too, as a shell would read them."""
    lines = re.findall(r"^[#\s]*export (\w+=.*)$", text, flags=re.MULTILINE)
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


def published(service: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Yield address, host port and container port of each published port. Without an address: all addresses."""
    for port in service.get("ports", ()):
        address, host, container = ["0.0.0.0", *str(port).split(":")][-3:]  # not bound here: Docker would bind it
        yield address, int(host), int(container)


def problems(text: str) -> list[str]:
    """Return the problems of a docker-compose.yml, one line each."""
    compose = yaml.safe_load(text)
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text("utf-8"))
    # The schema chooses its dialect: an older dialect would silently ignore its keywords.
    validator = jsonschema.validators.validator_for(schema)(schema)
    found = [f"schema: {error.json_path}: {error.message}" for error in validator.iter_errors(compose)]
    if found:
        return found
    services = compose["services"]
    if set(services) != {*IMAGES, *PROGRAMS}:
        return [f"services: {sorted(services)}"]
    for name, service in services.items():
        found += [f"{name}: {problem}" for problem in _any_service(name, service)]
    for name, image in IMAGES.items():
        if services[name]["image"] != image:
            found.append(f"{name}: image {services[name]['image']}, wanted {image}")
    for name, policy in REDIS_POLICY.items():
        found += [f"{name}: {problem}" for problem in _redis(services[name]["command"], policy)]
    found += [f"mongodb: {problem}" for problem in _mongodb(services["mongodb"])]
    if "hostname" not in services["broker"] or not any(
        ":/var/lib/rabbitmq" in v for v in services["broker"]["volumes"]
    ):
        found.append("broker: events do not outlive its container")
    found += [f"worker: {problem}" for problem in _worker(services["worker"])]
    for name in PROGRAMS:
        found += [f"{name}: {problem}" for problem in _program(name, services)]
    found += [f"relay: {problem}" for problem in _relay(services["relay"])]
    found += [f"stream: {problem}" for problem in _stream(services["stream"])]
    for name, command in COMMANDS.items():
        found += [f"{name}: {problem}" for problem in _command(services[name], command)]
    found += [f"host: {problem}" for problem in _host(text, services)]
    return found


def _any_service(name: str, service: Mapping[str, Any]) -> Iterator[str]:
    if service.get("restart") != "unless-stopped":
        yield "no restart policy"
    if name != "worker" and not service.get("healthcheck", {}).get("test"):
        yield "no health check"
    ports = list(published(service))
    wanted = {**PORTS, "door": DOOR_PORT}.get(name)
    if [container for _, _, container in ports] != ([] if wanted is None else [wanted]):
        yield f"publishes {ports}"
    for address, host, _ in ports:
        if address != "127.0.0.1":
            yield f"port {host} is published on {address}"


def _redis(command: list[str], policy: str) -> Iterator[str]:
    given = options(command)
    if command[0] != "redis-server":
        yield f"runs {command[0]}"
    if not re.fullmatch(r"\d+mb", given.get("--maxmemory", "")):
        yield "no maxmemory"
    for option, wanted in {**REDIS_COMMON, "--maxmemory-policy": policy}.items():
        if given.get(option) != wanted:
            yield f"{option} is {given.get(option)!r}, wanted {wanted!r}"


def _mongodb(service: Mapping[str, Any]) -> Iterator[str]:
    given = options(service["command"])
    if not given.get("--replSet"):
        yield "no replica set"
    if "--bind_ip_all" not in given:
        yield "other containers cannot reach it"
    script = service["healthcheck"]["test"][-1]
    if f'_id: "{given.get("--replSet")}"' not in script or 'host: "mongodb:27017"' not in script:
        yield "its health check initialises another replica set"


def _worker(worker: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        f"{key} belongs in the Dockerfile" for key in ("command", "entrypoint", "user", "healthcheck") if key in worker
    )


def _command(service: Mapping[str, Any], wanted: list[str]) -> Iterator[str]:
    if service.get("command") != wanted:
        yield f"its command is {service.get('command')}"


def health_seconds(service: Mapping[str, Any]) -> int:
    """Return how long the service's health check may take; 0 if its timeout is not given in seconds."""
    timeout = re.fullmatch(r"(\d+)s", service.get("healthcheck", {}).get("timeout", ""))
    return int(timeout[1]) if timeout else 0


def _relay(relay: Mapping[str, Any]) -> Iterator[str]:
    if health_seconds(relay) < 2 * CHECK_SECONDS:
        yield f"its health check waits {CHECK_SECONDS:g} s for MongoDB, and needs time to start"


def _stream(stream: Mapping[str, Any]) -> Iterator[str]:
    if health_seconds(stream) < 2 * SIGN_OF_LIFE_SECONDS:
        yield f"its health check waits {SIGN_OF_LIFE_SECONDS:g} s for a sign of life, and needs time to start"


def _program(name: str, services: Mapping[str, Any]) -> Iterator[str]:
    """Check one of our programs: it uses our image, has no privileges, and gets exactly the settings that it needs."""
    service = services[name]
    yield from (f"{key} forbids --scale {name}=N" for key in ("container_name", "hostname") if key in service)
    built = (".", None) if name == "worker" else (None, "never")
    if (service.get("image"), service.get("build"), service.get("pull_policy")) != ("cachekeeper-worker", *built):
        yield "does not use the image that is built here"
    if service.get("cap_drop") != ["ALL"] or service.get("security_opt") != ["no-new-privileges:true"]:
        yield "may gain privileges"
    environment: dict[str, str] = service["environment"]
    known = {PREFIX + field.upper() for field in PROGRAMS[name].model_fields}
    yield from (f"{variable} is not in {PROGRAMS[name].__name__}" for variable in environment.keys() - known)
    servers = {variable: server for variable, server in LEADS_TO.items() if variable in known}
    yield from (f"{variable} is not set" for variable in servers if variable not in environment)
    for variable, server in servers.items():
        url = urlsplit(environment.get(variable, ""))
        if url.hostname != server or (url.port or PORTS[server]) != PORTS[server]:
            yield f"{variable} leads to {url.hostname}:{url.port}"
    if {server: rule["condition"] for server, rule in service["depends_on"].items()} != dict.fromkeys(
        servers.values(), "service_healthy"
    ):
        yield "does not wait for all its servers to be healthy"
    if "CACHEKEEPER_BROKER_URL" in servers:
        yield from _credentials(environment, services)
    if "CACHEKEEPER_MONGODB_URL" in servers:
        url = urlsplit(environment.get("CACHEKEEPER_MONGODB_URL", ""))
        if parse_qs(url.query).get("replicaSet") != [options(services["mongodb"]["command"]).get("--replSet")]:
            yield f"CACHEKEEPER_MONGODB_URL names the replica set {parse_qs(url.query).get('replicaSet')}"
        if url.path != urlsplit(services["worker"]["environment"].get("CACHEKEEPER_MONGODB_URL", "")).path:
            yield "uses another database than the worker"


def _host(text: str, services: Mapping[str, Any]) -> Iterator[str]:
    variables = exports(text)
    yield from _variables(variables)
    for variable, service in LEADS_TO.items():
        url = urlsplit(variables.get(variable, ""))
        if (url.hostname, url.port) not in {(address, host) for address, host, _ in published(services[service])}:
            yield f"{variable} leads to {url.hostname}:{url.port}"
    yield from _credentials(variables, services)
    theirs, ours = (
        urlsplit(of.get("CACHEKEEPER_MONGODB_URL", "")) for of in (services["worker"]["environment"], variables)
    )
    if theirs.path != ours.path:
        yield "host and worker use different databases"
    if parse_qs(ours.query).get("directConnection") != ["true"]:
        yield "CACHEKEEPER_MONGODB_URL lacks directConnection=true: the host cannot resolve the member's name"


def _variables(environment: Mapping[str, str]) -> Iterator[str]:
    known = {PREFIX + name.upper() for name in WorkerSettings.model_fields}
    yield from (f"{name} is not in WorkerSettings" for name in environment if name not in known)
    yield from (f"{name} is not set" for name in LEADS_TO if name not in environment)


def _credentials(environment: Mapping[str, str], services: Mapping[str, Any]) -> Iterator[str]:
    url = urlsplit(environment.get("CACHEKEEPER_BROKER_URL", ""))
    broker = services["broker"]["environment"]
    if (url.username, url.password) != (broker.get("RABBITMQ_DEFAULT_USER"), broker.get("RABBITMQ_DEFAULT_PASS")):
        yield "CACHEKEEPER_BROKER_URL has other credentials than the broker"


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return name and arguments of each instruction of a Dockerfile, without comments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, " ".join(rest.split())) for name, rest in re.findall(r"^([A-Z]+)\s+(.*)$", text, flags=re.MULTILINE)]


def image_problems(dockerfile: str) -> list[str]:
    """Return the problems of the worker's Dockerfile, one line each."""
    steps = instructions(dockerfile)
    last = [index for index, (name, _) in enumerate(steps) if name == "FROM"][-1]
    final = dict(steps[last:])
    found = []
    if any(not base.startswith("python:3.12-slim") for name, base in steps if name == "FROM"):
        found.append("not built on python:3.12-slim")
    if final.get("USER", "root") in {"root", "0"}:
        found.append("runs as root")
    if list(dict(steps[last:]))[-1] != "CMD" or json.loads(final["CMD"]) != ["celery", "-A", "cachekeeper", "worker"]:
        found.append(f"its command is {final.get('CMD')}")
    if "HEALTHCHECK" not in final:
        found.append("no health check")
    installs = [rest for name, rest in steps if name == "RUN" and "pip install" in rest]
    if len(installs) != 1 or "--constraint /constraints.txt" not in installs[0]:
        found.append("installs other versions than the tested ones")
    if any(word in rest for rest in installs for word in ("embedded", "dev]", "bench")):
        found.append("installs an extra that is not for production")
    return found


def health_command(dockerfile: str) -> str:
    """Return the shell command of the image's health check."""
    return dict(instructions(dockerfile))["HEALTHCHECK"].partition("CMD ")[2]
