import json
import os
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import yaml
from celery.bin.celery import celery as celery_command
from celery.worker.control import Panel
from click import Context, UsageError

from cachekeeper.settings import load, load_settings
from testkit.compose import PROGRAMS, ROOT, exports, health_command, image_problems, instructions, options, problems
from testkit.parts import missing

COMPOSE = (ROOT / "docker-compose.yml").read_text("utf-8")
WORKER = "  worker:\n    <<: *program\n"
STREAM = COMPOSE[
    COMPOSE.index("    # No broker:") : COMPOSE.index("    healthcheck:\n      # Checks that a live process leads")
]
STREAM_CHECK = COMPOSE[COMPOSE.index('["CMD", "cachekeeper", "stream"') : COMPOSE.index("  # Takes events over HTTP")]
RELAY_CHECK = COMPOSE[COMPOSE.index('["CMD", "cachekeeper", "relay"') : COMPOSE.index("    # No broker:")]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def changed(text: str, old: str, new: str) -> str:
    assert old in text, "the mutant no longer applies"
    return text.replace(old, new)


def test_compose_file_is_as_promised() -> None:
    assert problems(COMPOSE) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("restart: unless-stopped", "restarts: always", "schema"),
        ("    restart: unless-stopped\n", "", "no restart policy"),
        ("condition: service_healthy", "condition: healthy", "schema"),
        ("allkeys-lfu", "noeviction", "cache: --maxmemory-policy"),
        ("- noeviction", "- allkeys-lru", "security: --maxmemory-policy"),
        ("- --maxmemory\n      - 256mb\n", "", "no maxmemory"),
        ('- ""', '- "60 1"', "--save"),
        ('- "no"', '- "yes"', "--appendonly"),
        ("image: redis:8", "image: redis:7", "cache: image"),
        ("rabbitmq:4.0", "rabbitmq:4.0-management", "broker: image"),
        ("rabbitmq:4.0", "rabbitmq:4", "broker: image"),
        ("    hostname: broker\n", "", "broker: events"),
        ("broker-data:/var/lib/rabbitmq", "broker-data:/var/lib/rabbit", "broker: events"),
        ("      - --replSet\n      - rs0\n", "", "mongodb: no replica set"),
        ("      - rs0\n", "      - rs1\n", "mongodb: its health check"),
        ("      - --bind_ip_all\n", "", "mongodb: other containers"),
        ('host: "mongodb:27017"', 'host: "localhost:27017"', "mongodb: its health check"),
        ('      test: ["CMD", "redis-cli", "ping"]\n', "", "cache: no health check"),
        ("- 127.0.0.1:27017:27017", "- 27017:27017", "port 27017 is published on 0.0.0.0"),
        ("- 127.0.0.1:6380:6379", "- 0.0.0.0:6380:6379", "port 6380 is published on 0.0.0.0"),
        ("- 127.0.0.1:6380:6379", "- 127.0.0.1:6380:6380", "security: publishes"),
        (WORKER, WORKER + "    container_name: worker\n", "worker: container_name"),
        (WORKER, WORKER + "    ports: [127.0.0.1:80:80]\n", "worker: publishes"),
        (WORKER, WORKER + "    command: celery -A cachekeeper worker -P prefork\n", "worker: command"),
        ("      cache: {condition: service_healthy}\n", "", "worker: does not wait"),
        ("CACHEKEEPER_REDIS_URL: ", "CACHEKEEPER_CACHE_URL: ", "worker: CACHEKEEPER_CACHE_URL is not in"),
        ("redis://security:6379/0", "redis://cache:6379/0", "worker: CACHEKEEPER_SECURITY_REDIS_URL leads to cache"),
        ("redis://security:6379/0", "redis://security:6380/0", "worker: CACHEKEEPER_SECURITY_REDIS_URL leads to"),
        ("?replicaSet=rs0", "", "worker: CACHEKEEPER_MONGODB_URL names the replica set None"),
        ("cachekeeper:cachekeeper@broker", "guest:guest@broker", "worker: CACHEKEEPER_BROKER_URL has other"),
        ("cachekeeper:cachekeeper@127", "guest:guest@127", "host: CACHEKEEPER_BROKER_URL has other"),
        ("127.0.0.1:6380/0", "127.0.0.1:6379/0", "host: CACHEKEEPER_SECURITY_REDIS_URL leads to"),
        ("27017/shop?direct", "27017/store?direct", "host: host and worker use different databases"),
        ("?directConnection=true", "", "host: CACHEKEEPER_MONGODB_URL lacks directConnection"),
        ("export CACHEKEEPER_BROKER_URL", "export CACHEKEEPER_BROKER", "host: CACHEKEEPER_BROKER is not in"),
        ("  cap_drop: [ALL]\n", "", "relay: may gain privileges"),
        ("    build: .\n", "", "worker: does not use the image"),
        ("    pull_policy: never\n", "", "stream: does not use the image"),
        ("    pull_policy: never\n", "    build: .\n", "stream: does not use the image"),
        ('      test: ["CMD", "cachekeeper", "relay", "--check"]\n', "", "relay: no health check"),
        ("[cachekeeper, relay]", "[cachekeeper, relay, --lag]", "relay: its command"),
        ("[cachekeeper, stream]", "[cachekeeper, relay]", "stream: its command"),
        ("--host, 0.0.0.0", "--host, 127.0.0.1", "door: its command"),
        ("- 127.0.0.1:8080:8080", "- 8080:8080", "port 8080 is published on 0.0.0.0"),
        ("- 127.0.0.1:8080:8080", "- 127.0.0.1:8080:80", "door: publishes"),
        ("CACHEKEEPER_HTTP_API_KEYS: key", "CACHEKEEPER_HTTP_KEYS: key", "door: CACHEKEEPER_HTTP_KEYS is not in"),
        ('      test: ["CMD", "cachekeeper", "stream", "--check"]\n', "", "stream: no health check"),
        (RELAY_CHECK, RELAY_CHECK.replace("20s", "15s"), "relay: its health check"),
        (STREAM_CHECK, STREAM_CHECK.replace("20s", "6s"), "stream: its health check"),
        (STREAM, STREAM.replace("shop", "store"), "stream: uses another database"),
        (STREAM, STREAM.replace("mongodb:27017", "mongodb:27018"), "stream: CACHEKEEPER_MONGODB_URL leads to"),
        (
            STREAM,
            STREAM + "      CACHEKEEPER_REDIS_URL: redis://cache\n",
            "CACHEKEEPER_REDIS_URL is not in Stream",
        ),
    ],
)
def test_known_bad_compose_files_are_found(old: str, new: str, problem: str) -> None:
    assert any(problem in found for found in problems(changed(COMPOSE, old, new)))


def test_both_sets_of_variables_are_valid_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for environment in (yaml.safe_load(COMPOSE)["services"]["worker"]["environment"], exports(COMPOSE)):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        settings = load_settings()
        assert settings.redis_url != settings.security_url
        assert settings.broker_url == environment["CACHEKEEPER_BROKER_URL"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_each_program_is_told_is_what_it_takes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable, value in yaml.safe_load(COMPOSE)["services"][name]["environment"].items():
        monkeypatch.setenv(variable, value)
    load(PROGRAMS[name])  # it raises where it does not


def test_the_door_is_asked_whether_it_can_publish() -> None:
    door = yaml.safe_load(COMPOSE)["services"]["door"]
    kind, python, option, code = door["healthcheck"]["test"]
    assert (kind, python, option) == ("CMD", "python", "-c")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "URLError" in done.stderr, "nobody listens there, and the check has said so"
    assert f"127.0.0.1:{options(door['command'])['--port']}/readyz" in code


def test_readme_gives_the_same_variables() -> None:
    page = exports((ROOT / "docs/installation.md").read_text("utf-8"))
    assert {name: page.get(name) for name in exports(COMPOSE)} == exports(COMPOSE)


def test_dockerfile_is_as_promised() -> None:
    assert image_problems(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("USER 10001\n", "", "runs as root"),
        ("FROM python:3.12-slim\n", "FROM python:3.12-slim\nUSER 0\n# ", "runs as root"),
        ('"cachekeeper", "worker"]', '"cachekeeper", "worker", "-P", "prefork"]', "its command"),
        ("[http]", "[http,embedded]", "not for production"),
        ("--constraint /constraints.txt", "", "other versions"),
        ("HEALTHCHECK", "# HEALTHCHECK", "no health check"),
        ("FROM python:3.12-slim\n", "FROM python:3.12\n", "not built on"),
    ],
)
def test_known_bad_dockerfiles_are_found(old: str, new: str, problem: str) -> None:
    text = changed(DOCKERFILE, "USER 10001\n", "") if "USER 0" in new else DOCKERFILE
    assert any(problem in found for found in image_problems(changed(text, old, new)))


def test_everything_the_dockerfile_copies_is_in_the_build_context() -> None:
    ignored, *kept = [
        line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and not line.startswith("#")
    ]
    assert ignored == "*"
    wanted = {
        *(word for name, rest in instructions(DOCKERFILE) if name == "COPY" for word in rest.split()[:-1]),
        *("constraints.txt",),
    }
    assert {line[1:] for line in kept if line.startswith("!")} == wanted
    assert [name for name in wanted if not (ROOT / name).exists()] == []


def parsed_by_celery(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Subcommand and its parameters, as given, of a `celery` command, without running it.

    Raises:
        UsageError: celery has no such subcommand or option.
    """
    (root_options, rest, _) = celery_command.make_parser(Context(celery_command)).parse_args(words[1:])
    assert (words[0], root_options, find_spec(root_options["app"]) is not None) == (
        "celery",
        {"app": "cachekeeper"},
        True,
    )
    name, subcommand, arguments = celery_command.resolve_command(Context(celery_command), rest)
    assert name is not None
    assert subcommand is not None
    given, left, _ = subcommand.make_parser(Context(subcommand)).parse_args(arguments)
    assert left == []
    return name, dict(given)


def test_celery_knows_the_commands_of_the_image() -> None:
    assert parsed_by_celery(json.loads(dict(instructions(DOCKERFILE))["CMD"])) == ("worker", {})
    name, given = parsed_by_celery(shlex.split(health_command(DOCKERFILE).partition(">")[0]))
    assert (name, given["command"], given["destination"]) == ("inspect", "ping", "celery@$HOSTNAME")
    assert "ping" in Panel.meta


@pytest.mark.parametrize(
    "command",
    [
        "celery -A cachekeeper work",
        "celery -A cachekeeper worker --pull=threads",
        "celery -A cachekeeper inspect ping --target me",
    ],
)
def test_commands_that_celery_does_not_know_are_found(command: str) -> None:
    with pytest.raises(UsageError):
        parsed_by_celery(command.split())


def test_the_image_and_compose_start_the_application_as_configured() -> None:
    code = (
        "from celery.app.utils import find_app; conf = find_app('worker').conf; "
        "print(conf.worker_pool, conf.worker_enable_remote_control, conf.broker_url or conf.broker_write_url)"
    )
    environment = yaml.safe_load(COMPOSE)["services"]["worker"]["environment"]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["threads", "True", environment["CACHEKEEPER_BROKER_URL"]]


# The server as the script sees it; what the script did is printed at its end.
SHELL = """
const state = JSON.parse(process.argv[1]), did = [];
const rs = {
  status() { if (state.error) throw Object.assign(new Error("refused"), {codeName: state.error}); },
  initiate(config) { did.push(config); },
};
const db = {hello: () => ({isWritablePrimary: state.primary})};
const quit = (status) => { console.log(JSON.stringify([status, did])); process.exit(0); };
new Function("rs", "db", "quit", process.argv[2])(rs, db, quit);
"""


@pytest.mark.parametrize(
    ("state", "status", "initialises"),
    [
        ({"error": "NotYetInitialized", "primary": False}, 1, True),
        ({"error": None, "primary": False}, 1, False),
        ({"error": None, "primary": True}, 0, False),
        ({"error": "Unauthorized", "primary": True}, None, False),
    ],
)
def test_mongodb_health_check(state: dict[str, object], status: int | None, *, initialises: bool) -> None:
    node = shutil.which("node")
    if node is None:
        missing("node", "not found here")
    script = yaml.safe_load(COMPOSE)["services"]["mongodb"]["healthcheck"]["test"][-1]
    done = subprocess.run(
        [node, "--eval", SHELL, json.dumps(state), script], capture_output=True, text=True, check=False, timeout=60
    )
    if status is None:
        assert done.returncode != 0
        assert "refused" in done.stderr
        return
    members = [{"_id": "rs0", "members": [{"_id": 0, "host": "mongodb:27017"}]}] if initialises else []
    assert json.loads(done.stdout) == [status, members]
