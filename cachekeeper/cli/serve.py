"""`cachekeeper serve`: run the HTTP door."""

import logging
import math
import socket
import sys
from typing import Annotated

import typer

CONNECTIONS = 1024


def serve(
    *,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 for all addresses of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 for a free one.")] = 8080,
) -> None:
    """Take events over HTTP (CloudEvents 1.0) and publish them, until ctrl-C or SIGTERM.

    Standard output has one line: the URL, once the door listens there.
    """
    try:
        import uvicorn  # noqa: PLC0415  (see cachekeeper.cli.app; and the extra may be missing)

        from cachekeeper.http_api import Door  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in {"anyio", "cloudevents", "starlette", "uvicorn"}:
            raise
        sys.exit(f'The HTTP door needs {error.name}: pip install "cachekeeper[http]"')
    from cachekeeper.settings import DoorSettings, load  # noqa: PLC0415  (see cachekeeper.cli.app)

    settings = load(DoorSettings)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = uvicorn.Config(
        Door(settings),
        http="h11",  # works on all platforms
        ws="none",
        lifespan="on",
        log_config=None,  # `basicConfig` above does it
        access_log=False,  # its lines would show a secret that a client put into the URL by mistake
        server_header=False,
        limit_concurrency=CONNECTIONS,
        # At the end, messages that are being published are finished. Each may take this long.
        timeout_graceful_shutdown=math.ceil(settings.publish_timeout_seconds) + 1,
    )
    with _listener(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"http://{shown}:{listener.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        why = error.strerror or error
        sys.exit(f"cachekeeper: cannot listen on {host}, port {port}: {why}; choose another --host or --port")
