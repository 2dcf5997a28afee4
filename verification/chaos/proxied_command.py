"""`python -m verification.chaos.proxied_command VERB`: the command `cachekeeper`, led through the proxy."""

from __future__ import annotations

import json
import os

from cachekeeper.cli import main
from verification.chaos.proxy import detour

PORTS = "CHAOS_PORTS"

if __name__ == "__main__":
    detour({int(port): to for port, to in json.loads(os.environ[PORTS]).items()})
    main()
