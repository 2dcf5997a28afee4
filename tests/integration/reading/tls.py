"""Servers with TLS, the authority that signs their certificates, and impostors that write down what they are sent."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import pymongo
import redis

from cachekeeper.devservers import MongoServer, RedisServer
from cachekeeper.devservers.mongo_server import REPLICA_SET
from testkit.parts import missing
from testkit.servers import RabbitServer
from testkit.waiting import wait_until

PASSWORD = "correcthorse"


class Authority:
    """One that signs certificates: a private CA."""

    def __init__(self, directory: Path, name: str) -> None:
        self._openssl = shutil.which("openssl") or missing("openssl", "not on PATH")
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / f"{name}.pem"
        self._key = directory / f"{name}.key"
        # Python 3.13 and later ask an authority's certificate what it is for.
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        made = ("req", "-x509", *self._new_key(self._key), "-out", self.file, "-subj", f"/CN={name}", "-days", "2")
        self._run(*made, *usage)

    def certificate(self, name: str, alternative: str) -> Path:
        """A file with a key and its certificate.

        Args:
            name: of the files.
            alternative: for whom, such as `IP:127.0.0.1` or `DNS:db.example.com`.
        """
        key, request, signed, extensions = (
            self._directory / f"{name}.{kind}" for kind in ("key", "csr", "crt", "extensions")
        )
        extensions.write_text(f"subjectAltName={alternative}\nauthorityKeyIdentifier=keyid\n")
        self._run("req", *self._new_key(key), "-out", request, "-subj", f"/CN={name}")
        by = ("-CA", self.file, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions)
        self._run("x509", "-req", "-in", request, *by, "-out", signed, "-days", "2")
        both = self._directory / f"{name}.pem"
        both.write_text(key.read_text() + signed.read_text())
        return both

    @staticmethod
    def _new_key(key: Path) -> tuple[str | Path, ...]:
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run([self._openssl, *arguments], check=True, capture_output=True)

    @property
    def redis_option(self) -> str:
        """What names it in a URL of Redis or of a broker."""
        return f"ssl_ca_certs={quote(str(self.file))}"

    @property
    def mongodb_option(self) -> str:
        return f"tls=true&tlsCAFile={quote(str(self.file), safe='')}"


class TlsRedis(RedisServer):
    """A Redis that answers over TLS alone, and asks for a password."""

    authority: Authority
    certificate: Path

    def url_of(self, database: int) -> str:
        return f"rediss://:{PASSWORD}@127.0.0.1:{self.port}/{database}?{self.authority.redis_option}"

    def client(self, database: int = 0, *, timeout: float = 5.0) -> redis.Redis:
        return redis.Redis.from_url(self.url_of(database), socket_timeout=timeout)

    def _command(self) -> Sequence[str]:
        self.config.update(
            {
                "port": 0,
                "tls-port": self.port,
                "tls-cert-file": str(self.certificate),
                "tls-key-file": str(self.certificate),
                "tls-ca-cert-file": str(self.authority.file),
                "tls-auth-clients": "no",
                "requirepass": PASSWORD,
            }
        )
        return super()._command()


class TlsRabbit(RabbitServer):
    """A RabbitMQ that listens with TLS alone."""

    authority: Authority
    certificate: Path

    @property
    def url(self) -> str:
        return f"amqps://guest:guest@127.0.0.1:{self.port}//?{self.authority.redis_option}"

    def _command(self) -> Sequence[str]:
        command = super()._command()
        (self.directory / "rabbitmq.conf").write_text(
            "listeners.tcp = none\n"
            f"listeners.ssl.1 = 127.0.0.1:{self.port}\n"
            f"ssl_options.cacertfile = {self.authority.file}\n"
            f"ssl_options.certfile = {self.certificate}\n"
            f"ssl_options.keyfile = {self.certificate}\n"
            "ssl_options.verify = verify_none\n"
            "ssl_options.fail_if_no_peer_cert = false\n"
            "disk_free_limit.absolute = 1MB\n"
        )
        return command


class TlsMongo(MongoServer):
    """A MongoDB that answers over TLS alone."""

    authority: Authority
    certificate: Path

    def url_of(self, database: str) -> str:
        options = f"replicaSet={REPLICA_SET}&{self.authority.mongodb_option}"
        return f"mongodb://127.0.0.1:{self.port}/{database}?{options}"

    def direct_client(self, **options: Any) -> pymongo.MongoClient[dict[str, Any]]:
        return super().direct_client(tls=True, tlsCAFile=str(self.authority.file), **options)

    def _command(self) -> Sequence[str]:
        return [
            *super()._command(),
            *("--tlsMode", "requireTLS", "--tlsCertificateKeyFile", str(self.certificate)),
            *("--tlsCAFile", str(self.authority.file), "--tlsAllowConnectionsWithoutCertificates"),
        ]


class Impostor:
    """Answers every connection over TLS with its certificate, and writes down what clients send inside.

    Attributes:
        port: where, on 127.0.0.1.
        received: what it was sent, decrypted. A client that has looked at the certificate sends nothing.
        refused: how many clients have broken off the handshake.
    """

    def __init__(self, certificate: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.received = b""
        self.refused = 0
        self._ended = False
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while not self._ended:
            try:
                plain = self._listener.accept()[0]
            except OSError:
                return
            thread = threading.Thread(target=self._listen, args=(plain,))
            self._threads.append(thread)
            thread.start()

    def _listen(self, plain: socket.socket) -> None:
        plain.settimeout(60)
        with plain:
            try:
                connection = self._context.wrap_socket(plain, server_side=True)
            except TimeoutError:
                return
            except OSError:  # with an alert, or cut
                self.refused += 1
                return
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(4096):
                    self.received += data


@contextmanager
def impostor(certificate: Path) -> Iterator[Impostor]:
    """One that listens meanwhile, and must not have been sent anything in the end."""
    with Impostor(certificate) as found:
        yield found
        wait_until(lambda: found.refused or found.received, "a client that breaks off")
    assert found.received == b""


def variables(**urls: str) -> Mapping[str, str]:
    """The variables that name servers."""
    return {f"CACHEKEEPER_{name.upper()}_URL": url for name, url in urls.items()}
