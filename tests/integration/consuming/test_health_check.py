import os
import socket
import subprocess
import sys
from pathlib import Path

from cachekeeper.devservers import Guardian, MongoServer, RedisServer
from cachekeeper.devservers.worker_process import WorkerProcess
from testkit.compose import ROOT, health_command

COMMAND = health_command((ROOT / "Dockerfile").read_text("utf-8"))


def status(environment: dict[str, str], host: str) -> int:
    """What Docker would see: the exit status of the image's health check, run by a shell."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["/bin/sh", "-c", COMMAND],
        cwd=ROOT,
        env={**os.environ, **environment, "PATH": path, "HOSTNAME": host},
        check=False,
        capture_output=True,
        timeout=60,
    ).returncode


def test_the_health_check_of_the_image_asks_the_worker_of_its_own_container(
    guardian: Guardian, redis_server: RedisServer, mongo_server: MongoServer, database: str
) -> None:
    environment = {
        "CACHEKEEPER_REDIS_URL": redis_server.url,
        "CACHEKEEPER_SECURITY_REDIS_URL": redis_server.url,
        "CACHEKEEPER_MONGODB_URL": mongo_server.url_of(database),
        "CACHEKEEPER_BROKER_URL": redis_server.url_of(1),
    }
    worker = WorkerProcess(guardian, environment)
    worker.start()
    try:
        assert status(environment, socket.gethostname()) == 0
        assert status(environment, "another-container") != 0  # its own worker is gone, this one still answers
        worker.pause()
        assert status(environment, socket.gethostname()) != 0  # there, and not consuming
        worker.resume()
    finally:
        worker.kill()
