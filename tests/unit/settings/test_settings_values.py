"""Settings: the values of each that are refused, and why; URLs above all."""

import pytest

from cachekeeper.settings import load_settings
from tests.unit.settings.environment import GOOD, SECRET, faults, put


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
    assert said.startswith("must be the URL of one server; for a Cluster, begin it with redis+cluster://")


@pytest.mark.parametrize("url", ["mongodb://a/shop,mongodb://b/shop", "mongodb://me:x@a/shop;mongodb://me:x@b/shop"])
def test_and_of_replica_sets(environment: pytest.MonkeyPatch, url: str) -> None:
    said = faults(environment, MONGODB_URL=url)["MONGODB_URL"]
    assert said.startswith("must be one URL: name all members of a replica set in it")


def test_signs_of_a_list_may_be_in_a_password(environment: pytest.MonkeyPatch) -> None:
    urls = {"REDIS_URL": "redis://:a,b;c@cache/0", "BROKER_URL": "amqp://me:a,b%3Bc%40d@broker//"}
    put(environment, **{**GOOD, **urls})
    assert load_settings().broker_url == urls["BROKER_URL"]
