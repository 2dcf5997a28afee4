"""Settings: everything that is wrong is said at once, by the variable's name, and no password is ever shown."""

import os
import traceback

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from cachekeeper import metrics
from cachekeeper.errors import SettingsError
from cachekeeper.reading.keeper import Keeper
from cachekeeper.settings import PREFIX, Settings, load_settings, loading
from cachekeeper.values.ids import IdType
from lookups import read_user

GOOD = {
    "REDIS_URL": "redis://cache:6379/0",
    "MONGODB_URL": "mongodb://db:27017/shop?replicaSet=rs0",
}
SECRET = "correcthorsebatterystaple"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing but what the test sets."""
    for name in os.environ:
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    return monkeypatch


def put(environment: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        environment.setenv(PREFIX + name, value)


def faults(environment: pytest.MonkeyPatch, **variables: str) -> dict[str, str]:
    """What is said of these variables, by their name without the prefix."""
    put(environment, **{**GOOD, **variables})
    with pytest.raises(SettingsError) as caught:
        load_settings()
    head, *lines = str(caught.value).splitlines()
    assert head == "The settings are wrong:"
    said = {}
    for line in lines:
        name, _, problem = line.strip().partition(": ")
        assert name.startswith(PREFIX), line
        assert problem, line
        assert name not in said, line
        said[name.removeprefix(PREFIX)] = problem
    return said


def test_the_two_that_are_required_are_enough(environment: pytest.MonkeyPatch) -> None:
    put(environment, **GOOD)
    settings = load_settings()
    assert settings.redis_url == "redis://cache:6379/0"
    assert settings.security_url == settings.redis_url
    assert settings.mongodb_url == "mongodb://db:27017/shop?replicaSet=rs0"
    assert settings.broker_url is None
    assert settings.modules == ("producers", "lookups", "worker")
    assert dict(settings.id_types) == {}
    assert (settings.redis_timeout_seconds, settings.load_timeout_seconds, settings.lookup_timeout_seconds) == (
        0.5,
        2,
        5,
    )
    assert (settings.lease_seconds, settings.redelivery_seconds, settings.negative_ttl_seconds) == (10, 3600, 30)
    assert (settings.load_concurrency, settings.block_leeway_seconds, settings.text_limit_chars) == (16, 60, 64)
    assert (settings.value_limit_bytes, settings.read_concern) == (1048576, "majority")


def test_every_variable_is_read(environment: pytest.MonkeyPatch) -> None:
    put(
        environment,
        REDIS_URL="rediss://:pw@cache:6380/1",
        SECURITY_REDIS_URL="redis+cluster://safe:6379",
        MONGODB_URL="mongodb+srv://db.example.com/shop",
        BROKER_URL="amqp://guest:guest@broker:5672//",
        MODULES="lookups, my.orders ,worker",
        ID_TYPES="user_name=objectid, session = str",
        REDIS_TIMEOUT_SECONDS="0.1",
        LOAD_TIMEOUT_SECONDS="1",
        LOOKUP_TIMEOUT_SECONDS="1.5",
        LEASE_SECONDS="4",
        REDELIVERY_SECONDS="60",
        NEGATIVE_TTL_SECONDS="2",
        LOAD_CONCURRENCY="3",
        BLOCK_LEEWAY_SECONDS="0",
        TEXT_LIMIT_CHARS="10",
        VALUE_LIMIT_BYTES="100",
        READ_CONCERN="linearizable",
    )
    settings = load_settings()
    assert settings.security_url == "redis+cluster://safe:6379"
    assert settings.broker_url == "amqp://guest:guest@broker:5672//"
    assert settings.modules == ("lookups", "my.orders", "worker")
    assert dict(settings.id_types) == {"user_name": IdType.OBJECTID, "session": IdType.STR}
    assert settings.lookup_timeout_seconds == 1.5
    assert settings.marker_ms == (60 + 4 + 1.5) * 1000
    assert settings.block_leeway_seconds == 0
    assert settings.read_concern == "linearizable"


def test_settings_are_frozen() -> None:
    settings = Settings(redis_url=GOOD["REDIS_URL"], mongodb_url=GOOD["MONGODB_URL"])
    with pytest.raises(ValidationError):
        settings.load_concurrency = 5  # type: ignore[misc]  # as mypy says, too


def test_all_that_is_wrong_is_said_together(environment: pytest.MonkeyPatch) -> None:
    said = faults(
        environment,
        REDIS_URL="http://cache:6379",
        SECURITY_REDIS_URL="cache:6379",
        MONGODB_URL="mongodb://db:27017",
        BROKER_URL="kafka://broker",
        ID_TYPES="user_name=number,session=str",
        REDIS_TIMEOUT_SECONDS="fast",
        LOAD_TIMEOUT_SECONDS="-1",
        LOAD_CONCURRENCY="0",
        TEXT_LIMIT_CHARS="513",
        VALUE_LIMIT_BYTES="1.5",
        READ_CONCERN="local",
        BLOCK_LEEWAY_SECONDS="-1",
    )
    assert said.keys() == {
        "REDIS_URL",
        "SECURITY_REDIS_URL",
        "MONGODB_URL",
        "BROKER_URL",
        "ID_TYPES[user_name]",
        "REDIS_TIMEOUT_SECONDS",
        "LOAD_TIMEOUT_SECONDS",
        "LOAD_CONCURRENCY",
        "TEXT_LIMIT_CHARS",
        "VALUE_LIMIT_BYTES",
        "READ_CONCERN",
        "BLOCK_LEEWAY_SECONDS",
    }
    assert said["MONGODB_URL"] == "must name its database, as in mongodb://host:27017/shop"
    assert said["REDIS_URL"].startswith("must be a URL that begins with redis://")


def test_what_is_missing_is_said_together(environment: pytest.MonkeyPatch) -> None:
    del environment  # sets nothing
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).splitlines() == [
        "The settings are wrong:",
        "  CACHEKEEPER_REDIS_URL: is not set, and has no default",
        "  CACHEKEEPER_MONGODB_URL: is not set, and has no default",
    ]


def test_what_does_not_fit_together_is_said_beside_the_rest(environment: pytest.MonkeyPatch) -> None:
    said = faults(
        environment,
        MONGODB_URL="mongodb://db",
        REDIS_TIMEOUT_SECONDS="1",
        LOAD_TIMEOUT_SECONDS="2",
        LOOKUP_TIMEOUT_SECONDS="4",
        LEASE_SECONDS="4",
    )
    assert said.keys() == {"MONGODB_URL", "LOOKUP_TIMEOUT_SECONDS", "LEASE_SECONDS"}
    assert "more than LOAD_TIMEOUT_SECONDS + 2 * REDIS_TIMEOUT_SECONDS, here 4" in said["LOOKUP_TIMEOUT_SECONDS"]
    assert "more than LOAD_TIMEOUT_SECONDS + 2 * REDIS_TIMEOUT_SECONDS, here 4" in said["LEASE_SECONDS"]


def test_a_default_that_no_longer_fits_is_said_too(environment: pytest.MonkeyPatch) -> None:
    assert faults(environment, LOAD_TIMEOUT_SECONDS="20").keys() == {"LOOKUP_TIMEOUT_SECONDS", "LEASE_SECONDS"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", ""),
        ("REDIS_URL", "redis:cache"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://cache:port"),
        ("REDIS_URL", "redis://cache:99999"),
        ("REDIS_URL", "redis://[::1"),
        ("REDIS_URL", "redis://cache?health_check_interval=long"),
        ("REDIS_URL", "redis://cache?socket_timeout=60"),  # it would win over REDIS_TIMEOUT_SECONDS
        ("REDIS_URL", "redis://cache?decode_responses=true"),
        ("REDIS_URL", "redis://cache?retry_on_timeout=true"),
        ("REDIS_URL", "redis://cache?foo=bar"),
        ("REDIS_URL", "redis://cache?ssl_foo=bar"),
        ("REDIS_URL", "rediss://cache?ssl_cert_reqs=foo"),
        ("REDIS_URL", "redis://cache?protocol=9"),
        ("REDIS_URL", "redis://cache?protocol=2"),
        ("REDIS_URL", "redis://cache?protocol=3"),
        ("REDIS_URL", "redis://a..b/0"),
        ("REDIS_URL", "redis://cache/abc"),
        ("REDIS_URL", "redis://cache?db=-1"),
        ("REDIS_URL", "redis://cache?db=one"),
        ("REDIS_URL", "unix:///run/redis.sock?db=-1"),
        ("REDIS_URL", "redis://cache/1?db=2"),
        ("REDIS_URL", "redis://cache:0/0"),
        ("SECURITY_REDIS_URL", "redis+cluster://cache:0"),
        ("BROKER_URL", "amqp://broker:0//"),
        ("REDIS_URL", "redis+cluster://cache/1"),
        ("SECURITY_REDIS_URL", "redis+cluster://cache:port"),
        ("BROKER_URL", "amqp://broker:port//"),
        ("BROKER_URL", "redis://broker/abc"),
        ("BROKER_URL", "redis://broker/0/1"),
        ("BROKER_URL", "rediss://broker/0?ssl_cert_reqs=foo"),
        ("BROKER_URL", "redis://a..b/0"),
        ("BROKER_URL", "redis://broker/0?ssl_ca_certs=/there/is/none"),
        ("BROKER_URL", "rediss://broker/0?ssl_ca_certs=/there/is/none"),
        ("BROKER_URL", "rediss://broker/0?ssl_ca_certs=/dev/null"),
        ("BROKER_URL", "amqps://broker//?ssl_ca_certs=/there/is/none"),
        ("BROKER_URL", "amqps://broker//?ssl_certfile=/there/is/none"),
        ("BROKER_URL", "amqps://broker//?ssl_keyfile=/etc/hostname"),
        ("BROKER_URL", "amqps://broker//?ssl_check_hostname=perhaps"),
        ("BROKER_URL", "amqps://broker//?ssl_cert_reqs=none&ssl_cert_reqs=required"),
        ("BROKER_URL", "amqps://broker//?ssl_cert_reqs="),
        ("BROKER_URL", "amqp://broker//?ssl_cert_reqs=none"),
        ("BROKER_URL", "amqp://broker//?heartbeat=often"),
        ("BROKER_URL", "amqp://broker//?login_method=NONE"),
        ("REDIS_URL", "rediss://cache?ssl_ca_certs=/there/is/none"),
        ("REDIS_URL", "rediss+cluster://cache?ssl_ca_certs=/there/is/none"),
        ("REDIS_URL", "redis://cache?ssl_ca_certs=/there/is/none"),
        ("REDIS_URL", "rediss://cache?ssl_min_version=99"),
        ("REDIS_URL", "rediss://cache?ssl_min_version=TLSv1.2"),
        ("REDIS_URL", f"rediss://cache?ssl_min_version={10**30}"),
        ("REDIS_URL", "rediss+cluster://cache?ssl_min_version=99"),
        ("REDIS_URL", "rediss://cache?ssl_ciphers=bogus"),
        ("REDIS_URL", "rediss://cache?ssl_ca_data=junk"),
        ("REDIS_URL", "rediss://cache?ssl_ca_data=%C3%A4"),
        ("REDIS_URL", "rediss://cache?ssl_ca_path=/there/is/none"),
        ("REDIS_URL", "rediss://cache?ssl_ca_path=/dev/null"),
        ("REDIS_URL", "rediss://cache?ssl_certfile=/dev/null"),
        ("REDIS_URL", "rediss://cache?ssl_include_verify_flags=bogus"),
        ("REDIS_URL", "rediss://cache?ssl_validate_ocsp=true"),  # which redis-py would not look at
        ("REDIS_URL", "rediss://cache?ssl_validate_ocsp_stapled=true"),
        ("REDIS_URL", "rediss://cache?ssl_ocsp_context=junk"),
        ("REDIS_URL", f"redis://cache?health_check_interval={10**400}"),
        ("REDIS_URL", "redis://cache?health_check_interval=-1"),
        ("REDIS_URL", "redis://cache?max_connections=-1"),
        ("MONGODB_URL", "mongodb://db/"),
        ("MONGODB_URL", "mongodb://db/?replicaSet=rs0"),
        ("MONGODB_URL", "mongodb://db?replicaSet=rs0"),
        ("MONGODB_URL", "mongodb:///shop"),
        ("MONGODB_URL", "mongodb://user:p@ss:word@db/shop"),
        ("MONGODB_URL", "mongodb://db:port/shop"),
        ("MONGODB_URL", "mongodb://db/sh op"),
        ("MONGODB_URL", "redis://db/shop"),
        ("MONGODB_URL", "mongodb://db/shop?tls=true&tlsCAFile=/there/is/none"),
        ("MONGODB_URL", "mongodb://db/shop?tls=true&tlsCAFile=/dev/null"),
        ("MONGODB_URL", "mongodb://db/shop?tlsCRLFile=/dev/null"),
        ("MONGODB_URL", "mongodb://db/shop?tlsCertificateKeyFile=/dev/null"),
        ("MONGODB_URL", "mongodb://db/shop?bogus=1"),
        ("MONGODB_URL", "mongodb://db:0/shop"),
        ("MONGODB_URL", "mongodb+srv://db.example.com/shop?tlsCAFile=/there/is/none"),
        ("MONGODB_URL", "mongodb+srv://db.example.com/shop?tlsCAFile=/dev/null"),
        ("MONGODB_URL", "mongodb+srv://db.example.com/shop?bogus=1"),
        ("MONGODB_URL", "mongodb+srv://db.example.com/shop?w=-1"),
        ("MONGODB_URL", "mongodb+srv://db.example.com/shop?directConnection=true"),
        ("MONGODB_URL", "mongodb+srv://db.example.com/shop?srvMaxHosts=some"),
        ("MONGODB_URL", "mongodb+srv://db.example.com/shop?srvMaxHosts=2&replicaSet=rs0"),
        ("MONGODB_URL", "mongodb+srv://db.example.com/shop?srvServiceName="),
        ("MONGODB_URL", "mongodb+srv://db.example.com:27017/shop"),
        ("MONGODB_URL", "mongodb+srv://me:secret@db.example.com:27017/shop"),
        ("MONGODB_URL", "mongodb+srv://a.example.com,b.example.com/shop"),
        ("MONGODB_URL", "mongodb+srv://127.0.0.1/shop"),
        ("MONGODB_URL", "mongodb+srv://[::1]/shop"),
        ("REDIS_TIMEOUT_SECONDS", "0"),
        ("REDIS_TIMEOUT_SECONDS", "nan"),
        ("LEASE_SECONDS", "inf"),
        ("LOOKUP_TIMEOUT_SECONDS", "inf"),
        ("REDELIVERY_SECONDS", "inf"),
        ("REDELIVERY_SECONDS", "1e300"),
        ("NEGATIVE_TTL_SECONDS", "nan"),
        ("BLOCK_LEEWAY_SECONDS", "inf"),
        ("ID_TYPES", "user_name"),
        ("ID_TYPES", "user_name=int,session"),
        ("ID_TYPES", "=int"),
        ("ID_TYPES", "user_name=int,user_name=str"),
        ("MODULES", ""),
        ("MODULES", " , "),
    ],
)
def test_bad_values(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert [said.partition("[")[0] for said in faults(environment, **{name: value})] == [name]


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://a:27017,b:27018,c/shop?replicaSet=rs0&w=1",
        "mongodb://user:p%40ss@db/shop?authSource=admin",
        "mongodb://[::1]:27017/shop",
        "mongodb://127.0.0.1:27017/shop?directConnection=true",
        "mongodb+srv://me:p%40ss@db.example.com/shop?srvMaxHosts=2&srvServiceName=shop&w=majority",
        "mongodb+srv://db.example.com/shop?replicaSet=rs0&SRVMAXHOSTS=0&tls=true",
    ],
)
def test_good_mongodb_urls(environment: pytest.MonkeyPatch, url: str) -> None:
    put(environment, **{**GOOD, "MONGODB_URL": url})
    assert load_settings().mongodb_url == url


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache",
        "redis://:p%40ss@cache:6379/2?health_check_interval=30&client_name=shop",
        "redis://cache/",
        "rediss://cache/1?ssl_cert_reqs=none",
        "rediss://cache/1?ssl_min_version=771&ssl_ciphers=ECDHE%2BAESGCM&ssl_ca_path=/tmp",
        "rediss://cache/1?ssl_include_verify_flags=VERIFY_X509_STRICT",
        "unix:///run/redis.sock?db=1",
        "redis+cluster://a:7000",
        "rediss+cluster://a:7000",
        "redis://[::1]:6379/0",
    ],
)
def test_good_redis_urls(environment: pytest.MonkeyPatch, url: str) -> None:
    put(environment, **{**GOOD, "REDIS_URL": url})
    assert load_settings().redis_url == url


@pytest.mark.parametrize(
    "url",
    [
        "amqp://broker",
        "amqp://broker//?heartbeat=15&login_method=EXTERNAL",
        "amqps://broker//?ssl_cert_reqs=none",
        "amqps://broker//?ssl_check_hostname=false",
        "rediss://:p%23ss@broker/0?ssl_cert_reqs=CERT_REQUIRED",
        "redis://:p%3Fs%2Fs@[::1]:6379/0",
    ],
)
def test_good_broker_urls(environment: pytest.MonkeyPatch, url: str) -> None:
    put(environment, **{**GOOD, "BROKER_URL": url})
    assert load_settings().broker_url == url


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("BROKER_URL", "amqp://broker//?socket_timout=5"),
        ("BROKER_URL", "amqps://broker//?socket_timout=5&ssl_cert_reqs=none"),
        ("BROKER_URL", "redis://broker/0?socket_timout=5"),
        ("BROKER_URL", "rediss://broker/0?socket_timout=5"),
        ("BROKER_URL", "redis://broker/0?socket_timout"),
        ("REDIS_URL", "redis://cache/0?socket_timout=5"),
        ("REDIS_URL", "redis://cache/0?socket_timout"),
        ("SECURITY_REDIS_URL", "redis+cluster://cache?socket_timout=5"),
    ],
)
def test_an_unknown_option_is_named(environment: pytest.MonkeyPatch, name: str, url: str) -> None:
    said = faults(environment, **{name: url})
    assert said.keys() == {name}
    assert said[name].startswith("has the unknown option socket_timout; it may have ")


@pytest.mark.parametrize(
    "option", ["ssl_foo", "ssl_ca_cert", "ssl", "transport", "connect_timeout", "insist", "userid"]
)
@pytest.mark.parametrize("scheme", ["amqp", "amqps", "redis", "rediss"])
def test_so_is_one_that_only_the_broker_s_library_knows(
    environment: pytest.MonkeyPatch, scheme: str, option: str
) -> None:
    said = faults(environment, BROKER_URL=f"{scheme}://broker/0?{option}=1")
    assert said["BROKER_URL"].startswith(f"has the unknown option {option}; ")


@pytest.mark.parametrize(
    ("url", "option"),
    [
        ("rediss://cache?ssl_min_version=99", "ssl_min_version"),
        ("rediss://cache?ssl_ciphers=bogus", "ssl_ciphers"),
        ("rediss://cache?ssl_ca_data=junk", "ssl_ca_data"),
        ("rediss://cache?ssl_ca_path=/there/is/none", "ssl_ca_path"),
        ("rediss://cache?ssl_validate_ocsp_stapled=true", "ssl_validate_ocsp_stapled"),
        ("redis://cache?max_connections=many", "max_connections"),
    ],
)
def test_an_option_with_a_wrong_value_is_named(environment: pytest.MonkeyPatch, url: str, option: str) -> None:
    assert f" {option}" in faults(environment, REDIS_URL=url)["REDIS_URL"].partition(";")[0]


def test_srv_is_told_what_it_takes_from_the_name_server(environment: pytest.MonkeyPatch) -> None:
    for hosts in ("a.example.com:27017", "a.example.com,b.example.com"):
        said = faults(environment, MONGODB_URL=f"mongodb+srv://{hosts}/shop")["MONGODB_URL"]
        assert said.startswith("must name one host and no port, as in mongodb+srv://db.example.com/shop")


ESCAPED = {"#": "%23", "?": "%3F", "/": "%2F"}


@pytest.mark.parametrize("sign", sorted(ESCAPED))
@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("REDIS_URL", "redis://:12{}34@cache/0"),
        ("REDIS_URL", "rediss://me:12{}34@cache:6380"),
        ("REDIS_URL", "redis+cluster://me:pa{}ss@cache"),
        ("SECURITY_REDIS_URL", "redis://me:12{}34@cache/0"),
        ("MONGODB_URL", "mongodb://me:12{}34@db/shop"),
        ("MONGODB_URL", "mongodb+srv://me:pa{}ss@db.example.com/shop"),
        ("BROKER_URL", "amqp://me:12{}34@broker//"),
        ("BROKER_URL", "amqps://m{}e:pass@broker"),
        ("BROKER_URL", "redis://:12{}34@broker/0"),
        ("BROKER_URL", "rediss://:p@{}34@broker/0"),
    ],
)
def test_a_sign_in_a_password_that_is_not_escaped_is_found(
    environment: pytest.MonkeyPatch, name: str, url: str, sign: str
) -> None:
    """`amqp://me:12#34@broker//` is the host `me`, and its port 12."""
    said = faults(environment, **{name: url.format(sign)})
    assert said.keys() == {name}
    assert f"{sign} as {ESCAPED[sign]}" in said[name]
    put(environment, **{name: url.format(ESCAPED[sign])})
    load_settings()


@pytest.mark.parametrize(
    "url",
    [
        "amqp://a//;amqp://b//",
        "amqp://a//,amqp://b//",
        "amqp://a// amqp://b//",
        "amqp://a,b//",
        "amqp://a;b//",
        "amqp://a:5672,b:5672//",
        "amqp://a/shop;b/shop",
        "amqps://a//;amqps://b//?ssl_cert_reqs=none",
        "redis://a/0;redis://b/0",
        "redis://a,b/0",
        f"amqp://me:{SECRET}@a//;amqp://me:{SECRET}@b//",
        f"amqp://me:{SECRET}@a,me:{SECRET}@b//",
        f"amqp://me:{SECRET}@a,b//",
        f"amqp://me:{SECRET};x@a//",  # where kombu would begin a second one
    ],
)
def test_a_list_of_brokers_is_told_what_to_do(environment: pytest.MonkeyPatch, url: str) -> None:
    said = faults(environment, BROKER_URL=url)["BROKER_URL"]
    assert said.startswith("must be the URL of one broker: for several, name a load balancer or a DNS name")
    assert SECRET not in said


@pytest.mark.parametrize("name", ["REDIS_URL", "SECURITY_REDIS_URL"])
@pytest.mark.parametrize(
    "url",
    ["redis://a,b/0", "redis://a:1,b:1/0", "redis+cluster://a:1,b:1", "redis://a/0;redis://b/0", "redis://a;b/0"],
)
def test_so_is_a_list_of_servers(environment: pytest.MonkeyPatch, name: str, url: str) -> None:
    said = faults(environment, **{name: url})[name]
    assert said.startswith("must be the URL of one server; that of a Cluster begins with redis+cluster://")


@pytest.mark.parametrize("url", ["mongodb://a/shop,mongodb://b/shop", "mongodb://me:x@a/shop;mongodb://me:x@b/shop"])
def test_and_of_replica_sets(environment: pytest.MonkeyPatch, url: str) -> None:
    said = faults(environment, MONGODB_URL=url)["MONGODB_URL"]
    assert said.startswith("must be one URL: it names the members of a replica set")


def test_signs_of_a_list_may_be_in_a_password(environment: pytest.MonkeyPatch) -> None:
    urls = {"REDIS_URL": "redis://:a,b;c@cache/0", "BROKER_URL": "amqp://me:a,b%3Bc%40d@broker//"}
    put(environment, **{**GOOD, **urls})
    assert load_settings().broker_url == urls["BROKER_URL"]


# --- secrets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {"REDIS_URL": f"http://:{SECRET}@cache"},
        {"SECURITY_REDIS_URL": f"redis//:{SECRET}@cache"},
        {"REDIS_URL": f"redis://:{SECRET}@cache:port"},
        {"REDIS_URL": f"redis://cache?foo={SECRET}"},
        {"REDIS_URL": f"redis://:{SECRET}?foo=bar@cache"},
        {"REDIS_URL": f"redis://:pass?{SECRET}=bar@cache"},
        {"REDIS_URL": f"redis://:pass#{SECRET}@cache"},
        {"MONGODB_URL": f"mongodb://user:pass#{SECRET}@db/shop"},
        {"MONGODB_URL": f"mongodb://user:{SECRET}/word@db/shop"},
        {"BROKER_URL": f"amqp://user:pass#{SECRET}@broker//"},
        {"BROKER_URL": f"amqp://user:pass?{SECRET}=1@broker//"},
        {"BROKER_URL": f"amqp://broker?foo={SECRET}"},
        {"BROKER_URL": f"rediss://broker?ssl_ca_certs=/{SECRET}"},
        {"REDIS_URL": f"redis://cache/{SECRET}"},
        {"BROKER_URL": f"redis://cache/{SECRET}"},
        {"MONGODB_URL": f"mongodb://db/shop?tls=true&tlsCAFile=/{SECRET}"},
        {"MONGODB_URL": f"mongodb://user:{SECRET}@db"},
        {"MONGODB_URL": f"mongodb://user:{SECRET}@@db/shop"},
        {"BROKER_URL": f"{SECRET}://broker"},
        {"LOAD_CONCURRENCY": SECRET},
        {"READ_CONCERN": SECRET},
        {"ID_TYPES": SECRET},
        {"ID_TYPES": f"user_name={SECRET}"},
    ],
)
def test_no_value_is_ever_in_the_message(environment: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    put(environment, **{**GOOD, **variables})
    with pytest.raises(SettingsError) as caught:
        load_settings()
    # As a log would show it, with causes and contexts.
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_no_url_is_in_the_repr(environment: pytest.MonkeyPatch) -> None:
    put(
        environment,
        REDIS_URL=f"redis://:{SECRET}@cache",
        SECURITY_REDIS_URL=f"redis://:{SECRET}@safe",
        MONGODB_URL=f"mongodb://user:{SECRET}@db/shop",
        BROKER_URL=f"amqp://user:{SECRET}@broker//",
    )
    settings = load_settings()
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    assert SECRET not in repr(Keeper(settings))
    assert "load_concurrency=16" in repr(settings)


# --- through the door -----------------------------------------------------------------------------------------------


def test_a_lookup_without_settings_names_them(environment: pytest.MonkeyPatch) -> None:
    del environment
    with pytest.raises(SettingsError, match="CACHEKEEPER_REDIS_URL: is not set"):
        read_user(42, keeper=Keeper())


def test_a_keeper_reads_the_environment_at_first_use_and_once(environment: pytest.MonkeyPatch) -> None:
    keeper = Keeper()
    put(environment, **GOOD)
    assert keeper.settings.load_concurrency == 16
    put(environment, LOAD_CONCURRENCY="3")
    assert keeper.settings.load_concurrency == 16


# --- variables that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LEASE_SECOND", "LEASE_SECONDS"),
        ("MONGO_URL", "MONGODB_URL"),
        ("LOAD_CONCURENCY", "LOAD_CONCURRENCY"),
        ("HTTP_API_KEY", "HTTP_API_KEYS"),
        ("READCONCERN", "READ_CONCERN"),
        ("BROKER_URI", "BROKER_URL"),
    ],
)
def test_a_misspelt_variable_is_told_with_the_one_that_was_meant(
    environment: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    assert faults(environment, **{name: SECRET}) == {name: f"is no setting; {PREFIX}{meant} is"}


def test_it_is_told_together_with_the_one_that_is_missing_for_it(environment: pytest.MonkeyPatch) -> None:
    put(environment, REDIS_URL=GOOD["REDIS_URL"], MONGODB_URI=GOOD["MONGODB_URL"])
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).splitlines()[1:] == [
        "  CACHEKEEPER_MONGODB_URI: is no setting; CACHEKEEPER_MONGODB_URL is",
        "  CACHEKEEPER_MONGODB_URL: is not set, and has no default",
    ]


def kinds(of: type[BaseSettings] = BaseSettings) -> set[type[BaseSettings]]:
    """Every kind of settings, those that are made of others too."""
    direct = of.__subclasses__()
    return set(direct).union(*map(kinds, direct))


@pytest.mark.parametrize("kind", sorted(kinds(), key=str))
def test_what_one_program_needs_another_may_be_told(environment: pytest.MonkeyPatch, kind: type[BaseSettings]) -> None:
    """One environment for all programs: `cachekeeper relay` is not disturbed by the keys of the HTTP door."""
    for name in kind.model_fields:
        put(environment, **{name.upper(): "anything"})
    assert loading._misspelt() == []


def test_what_is_like_no_setting_is_logged_once_and_harms_nobody(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kubernetes gives such variables to every pod, where a service has our name."""
    environment.setattr(metrics, "_said", set())
    names = ("DOOR_SERVICE_HOST", "DOOR_PORT_8080_TCP_PROTO", "DOOR_PORT")
    put(environment, **GOOD, **dict.fromkeys(names, SECRET))
    for _ in range(2):
        load_settings()
    said = sorted(record.getMessage() for record in caplog.records)
    assert said == [f"{PREFIX}{name} is no setting, and means nothing here" for name in sorted(names)]


@pytest.mark.parametrize("role", ["redis", "security-redis", "mongodb", "broker", "redis-url", "mongodb-url"])
def test_what_kubernetes_sets_for_a_service_stops_nobody(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, role: str
) -> None:
    """A service `cachekeeper-redis` gives every pod of its namespace variables that are nearly `…_REDIS_URL`."""
    environment.setattr(metrics, "_said", set())
    service = role.upper().replace("-", "_")
    put(
        environment,
        **GOOD,
        **{
            f"{service}_SERVICE_HOST": "10.0.0.1",
            f"{service}_SERVICE_PORT": "6379",
            f"{service}_SERVICE_PORT_MAIN": "6379",
            f"{service}_PORT": "tcp://10.0.0.1:6379",
            f"{service}_PORT_6379_TCP": "tcp://10.0.0.1:6379",
            f"{service}_PORT_6379_TCP_PROTO": "tcp",
            f"{service}_PORT_6379_TCP_PORT": "6379",
            f"{service}_PORT_6379_TCP_ADDR": "10.0.0.1",
        },
    )
    load_settings()
    assert len(caplog.records) == 8
