"""A worker runs its tasks where it can hear what they came to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testkit.shop import Shop

ROOT = Path(__file__).resolve().parents[3]


def test_a_pool_whose_children_cannot_answer_is_refused(shop: Shop) -> None:
    # Each message would be applied, put back and fetched again, without end.
    urls = {
        "CACHEKEEPER_REDIS_URL": shop.server.url,
        "CACHEKEEPER_MONGODB_URL": shop.mongo.url_of(shop.name),
        "CACHEKEEPER_BROKER_URL": shop.server.url_of(1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker", "worker", "-P", "processes"],
        cwd=ROOT,
        env={**os.environ, **urls},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "pool threads (the default) or solo" in done.stderr
