"""A buffer that was made before gevent patched the process, as in `gunicorn --preload -k gevent`: nothing hangs."""

from __future__ import annotations

import signal
import subprocess
import threading
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from cachekeeper.devservers.ports import free_port
from testkit.patient_publishing import PUBLISH_SECONDS
from testkit.waiting import wait_until
from tests.integration.publishing.buffered_events import arrived
from tests.integration.publishing.buffered_programs import is_ready, run, start

if TYPE_CHECKING:
    from pathlib import Path

    from cachekeeper.devservers import RedisServer

HANG_SECONDS = 60
MUTANT_SECONDS = 15  # how long a variant that is known to hang may

PATCH = """
def patch():
    import gevent.monkey
    gevent.monkey.patch_all()

def in_greenlets(count, first=0):
    import gevent
    gevent.joinall([gevent.spawn(fill, 1, user) for user in range(first, first + count)], raise_error=True)

def in_workers(work):
    # As gunicorn does: each worker is a fork, and patches then.
    workers = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            work(6 * number)
            sys.exit(0)
        workers.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0, 0, 0]
"""
LATE: dict[str, str] = {
    "patched in the process": "patch(); in_greenlets(18)",
    "patched in workers": """
def work(first):
    patch()
    in_greenlets(6, first)
in_workers(work)
""",
    "published before the patch": "fill(6); patch(); in_greenlets(12, 6)",
    # Not the first one: gevent cannot patch while a thread imports modules, which the first connection does.
    "a full message under way at the patch": """
fill(500, 100)
buffered.flush()
fill(500, 600)
patch()
in_greenlets(18)
""",
    "published in workers before the patch": """
def work(first):
    fill(2, first)
    patch()
    in_greenlets(4, first + 2)
in_workers(work)
""",
    "the parent publishes too, before and after the fork": """
def work(first):
    patch()
    in_greenlets(4, first)
fill(2, 4)
in_workers(work)
fill(2, 10)
fill(2, 16)
""",
    "closed after the patch": "fill(6); patch(); in_greenlets(6, 6); buffered.close(); in_greenlets(6, 12)",
    "published by the buffer's own thread": """
buffered._seconds = 0.01
patch()
in_greenlets(18)
while buffered.waiting:
    time.sleep(0.01)
os._exit(0)
""",
    "the greenlet of its thread is killed": """
patch()
import gc, gevent
buffered._seconds = 3600
fill(2)
(greenlet,) = [one for one in gc.get_objects() if isinstance(one, gevent.Greenlet) and not one.dead]
ended = buffered._thread
greenlet.kill()
assert not ended.is_alive()
buffered._seconds = 0.01
in_greenlets(16, 2)
while buffered.waiting:
    time.sleep(0.01)
os._exit(0)
""",
    # CPython 3.12 refuses threads from the beginning of its end; others do so here.
    "no thread can be started at the end": """
import atexit, gevent.threadpool

def refuse(*_):
    raise RuntimeError("can't create new thread at interpreter shutdown")

patch()
in_greenlets(18)
atexit.register(lambda: setattr(gevent.threadpool, "start_new_thread", refuse))
""",
    "more than there is room for": "buffered._max_events = buffered._batch = 4; patch(); in_greenlets(18)",
}


def check_everything_arrives(broker: RedisServer, code: str, *, wrong: str = "", seconds: float = HANG_SECONDS) -> None:
    with run(broker, wrong + PATCH + code) as process:
        _, err = process.communicate(timeout=seconds)
        assert process.returncode == 0, err
    # What a thread of before the patch had under way is there twice.
    assert {user for user in arrived(broker) if user < 100} == set(range(18)), err


@pytest.mark.parametrize("case", LATE)
def test_a_buffer_made_before_the_patch(redis_server: RedisServer, case: str) -> None:
    check_everything_arrives(redis_server, LATE[case])


# Two greenlets publish at once, of which the second must let the first go on; and a third shows that the process lives.
TOGETHER = """
patch()
import gevent
fill(18)
flushing = [gevent.spawn(buffered.flush) for _ in range(2)]
gevent.sleep(0.2)
print("ready", flush=True)
gevent.joinall(flushing, raise_error=True)
os._exit(0)
"""


def check_greenlets_go_on(broker: RedisServer, *, wrong: str = "", seconds: float = HANG_SECONDS) -> None:
    broker.pause()
    try:
        with run(broker, wrong + PATCH + TOGETHER) as process:
            hanging = threading.Timer(seconds, process.kill)
            hanging.start()
            ready = is_ready(process)
            hanging.cancel()
            assert ready, "the process hangs"
            broker.resume()
            _, err = process.communicate(timeout=HANG_SECONDS)
            assert process.returncode == 0, err
    finally:
        broker.resume()
    assert set(arrived(broker)) == set(range(18))


def test_greenlets_go_on_while_others_publish(own_redis: RedisServer) -> None:
    check_greenlets_go_on(own_redis)


@pytest.mark.parametrize("ending", ["in_greenlets(18)", "in_greenlets(18); buffered.flush(); in_greenlets(6, 12)"])
def test_sigterm_after_the_patch(redis_server: RedisServer, ending: str) -> None:
    code = f"{PATCH}\npatch()\n{ending}\nwait()"
    with run(redis_server, code, options="flush_on_sigterm=True") as process:
        assert is_ready(process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=HANG_SECONDS)
        assert process.returncode == -signal.SIGTERM, err
    assert set(arrived(redis_server)) == set(range(18))


# A greenlet publishes because of SIGTERM, and waits for the broker, when the interpreter ends.
ENDS_TWICE = "patch(); in_greenlets(18); signal.raise_signal(signal.SIGTERM); time.sleep(0); sys.exit(3)"


def check_it_ends(broker: RedisServer, *, wrong: str = "", seconds: float = HANG_SECONDS) -> None:
    with run(broker, wrong + PATCH + ENDS_TWICE, options="flush_on_sigterm=True") as process:
        _, err = process.communicate(timeout=seconds)
        assert process.returncode == -signal.SIGTERM, err
    assert sorted(arrived(broker)) == list(range(18))


def test_sigterm_and_then_the_end_of_the_interpreter(redis_server: RedisServer) -> None:
    check_it_ends(redis_server)


# The whole program: the application is loaded before the workers are forked, and each of them patches.
APPLICATION = """
from cachekeeper.publishing.buffered import BufferedPublisher
from producers import UserDeleted

buffered = BufferedPublisher(max_milliseconds=3_600_000)

def application(environ, start_response):
    buffered.publish(UserDeleted(user_id=environ["PATH_INFO"].strip("/")))
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""


# A worker that gets its SIGTERM while it boots does not take it, and gunicorn waits half a minute before it kills it.
GUNICORN = """
from pathlib import Path

def post_worker_init(worker):
    Path(__file__).with_name(f"{worker.pid}.booted").touch()
"""


def test_gunicorn_with_preload_and_gevent(redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "shop_app.py").write_text(APPLICATION, "utf-8")
    (tmp_path / "gunicorn_settings.py").write_text(GUNICORN, "utf-8")
    port = free_port()
    arguments = ["-m", "gunicorn", "--preload", "-k", "gevent", "--workers", "3", "--bind", f"127.0.0.1:{port}",
                 "--pythonpath", str(tmp_path), "-c", str(tmp_path / "gunicorn_settings.py"), "--no-control-socket",
                 "shop_app:application"]  # fmt: skip
    with start(redis_server, arguments, PUBLISH_SECONDS) as process:
        wait_until(lambda: len(list(tmp_path.glob("*.booted"))) == 3, "three workers", HANG_SECONDS)
        for user in range(18):
            with urlopen(f"http://127.0.0.1:{port}/{user}", timeout=HANG_SECONDS) as answer:
                assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=HANG_SECONDS)
        assert process.returncode == 0, err
    assert sorted(arrived(redis_server)) == list(range(18)), err


# --- mutants ---------------------------------------------------------------------------------------------------------

NOT_RECOGNISED = "BufferedPublisher._present = lambda self: self._locks\n"
STARTED_UNDER_THE_LOCK = """
def begin_under_the_lock(self, locks):
    thread = threading.Thread(target=self._run, args=(locks,), daemon=True)
    with locks.lock:
        thread.start()
        self._thread = thread
    return True
BufferedPublisher._begin = begin_under_the_lock
"""


def test_mutant_that_keeps_the_locks_of_before_the_patch(own_redis: RedisServer) -> None:
    with pytest.raises(AssertionError, match="hangs"):
        check_greenlets_go_on(own_redis, wrong=NOT_RECOGNISED, seconds=MUTANT_SECONDS)


def test_mutant_that_starts_its_thread_under_such_a_lock(redis_server: RedisServer) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        check_everything_arrives(
            redis_server,
            LATE["patched in workers"],
            wrong=NOT_RECOGNISED + STARTED_UNDER_THE_LOCK,
            seconds=MUTANT_SECONDS,
        )


KEEPS_THE_LOCK_OF_THE_END = """
from cachekeeper.publishing import at_exit
def finish(self):
    with self.finishing:
        for one in list(self.unfinished):
            one.finish()
            self.unfinished.discard(one)
at_exit._End.finish = finish
"""


def test_mutant_that_ends_under_a_lock_of_before_the_patch(redis_server: RedisServer) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        check_it_ends(redis_server, wrong=KEEPS_THE_LOCK_OF_THE_END, seconds=MUTANT_SECONDS)
