"""The Celery application: what its configuration says, and that nothing else says otherwise."""

from __future__ import annotations

from typing import Any

import celery
import pytest
from celery.app.defaults import DEFAULTS
from celery.backends.base import DisabledBackend

from cachekeeper.broker.names import TASK
from cachekeeper.broker.queues import DELIVERY_LIMIT
from cachekeeper.consuming.celery_app import WorkerApp, _configuration, create_app
from cachekeeper.consuming.redis_channel import Channel
from cachekeeper.errors import SettingsError
from cachekeeper.settings import Settings, WorkerSettings

REDIS, RABBIT = "redis://broker:6379/1", "amqp://me:secret@broker//"


def app_with(broker: str | None, **settings: Any) -> WorkerApp:
    return create_app(
        Settings(redis_url="redis://cache", mongodb_url="mongodb://db/shop", broker_url=broker, **settings)
    )


@pytest.mark.parametrize("broker", [REDIS, RABBIT])
def test_every_setting_is_one_that_celery_knows(broker: str) -> None:
    assert _configuration(broker).keys() - DEFAULTS.keys() == set()


@pytest.mark.parametrize("broker", [REDIS, RABBIT])
def test_a_message_is_acknowledged_late_and_nothing_but_json_is_read(broker: str) -> None:
    conf = app_with(broker).conf
    assert conf.task_acks_late
    assert conf.accept_content == ["json"]
    assert conf.task_ignore_result
    assert conf.result_backend is None
    assert conf.worker_send_task_events is False
    assert conf.worker_pool == "threads"
    assert conf.worker_concurrency * conf.worker_prefetch_multiplier == 16


@pytest.mark.parametrize("broker", [REDIS, RABBIT])
def test_no_exchange_is_another_applications(broker: str) -> None:
    conf = app_with(broker).conf
    for name in (conf.control_exchange, conf.event_exchange, conf.event_queue_prefix):
        assert name.startswith("cachekeeper")


def test_no_key_in_redis_is_another_applications() -> None:
    for name in ("unacked_key", "unacked_index_key", "unacked_mutex_key"):
        assert getattr(Channel, name).startswith("cachekeeper.unacked")


def test_a_worker_waits_for_its_broker_without_end() -> None:
    conf = app_with(REDIS).conf
    assert conf.broker_connection_retry
    assert conf.broker_connection_retry_on_startup
    assert conf.broker_connection_max_retries is None


def test_redis_as_the_broker_redelivers_within_a_minute_or_so() -> None:
    options = app_with(REDIS).conf.broker_transport_options
    assert options["visibility_timeout"] == 60
    assert options["unacked_restore_interval"] * options["unacked_restore_throttle"] <= 5


def test_rabbitmq_keeps_the_events_in_a_quorum_queue_that_counts() -> None:
    (queue,) = app_with(RABBIT).conf.task_queues
    assert queue.name == "cachekeeper"
    assert queue.queue_arguments["x-queue-type"] == "quorum"
    assert queue.queue_arguments["x-delivery-limit"] == DELIVERY_LIMIT
    assert queue.queue_arguments["x-dead-letter-routing-key"] == "cachekeeper.dead"
    (queue,) = app_with(REDIS).conf.task_queues
    assert not queue.queue_arguments


def test_the_broker_of_another_application_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://elsewhere:6379/0")
    app = app_with(REDIS)
    for name in ("CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "redis://elsewhere:6379/0")
    for connection in (app.connection_for_read(), app.connection_for_write()):
        assert connection.hostname == "broker"


def test_nor_is_its_result_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "nowhere://")
    assert isinstance(app_with(REDIS).backend, DisabledBackend)


def test_a_process_keeps_its_own_application(monkeypatch: pytest.MonkeyPatch) -> None:
    own = celery.Celery("own")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "there.is.none")  # a Celery application would take it up, and warn
    app = app_with(REDIS)
    assert celery.current_app.main == own.main
    assert TASK in app.tasks
    assert TASK not in own.tasks


def test_a_worker_needs_a_broker_and_modules_that_are_there() -> None:
    with pytest.raises(SettingsError, match="CACHEKEEPER_BROKER_URL"):
        app_with(None)
    with pytest.raises(SettingsError, match="there is no module 'nothing_here'"):
        app_with(REDIS, modules=("nothing_here",))


def test_the_settings_of_a_worker_are_all_settings() -> None:
    assert set(WorkerSettings.model_fields) == set(Settings.model_fields)
