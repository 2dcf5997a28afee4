# The worker, and the `cachekeeper` command with relay, change stream and HTTP door: docker build -t cachekeeper-worker .

FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY cachekeeper cachekeeper
COPY lookups lookups
COPY producers producers
COPY worker worker
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
# A number, so that an orchestrator can see that it is not root without looking into the image; no home, no shell.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin cachekeeper
# Constraints: the versions that were tested. The extra `http` (with it comes `cli`) is for the command; `embedded` stays
# out, since mongod's licence lets us run it, but not ship it.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt "$(ls /wheels/cachekeeper-*.whl)[http]"
USER 10001
# Celery looks for modules in the working directory: an empty one, which its user cannot write to.
WORKDIR /opt/cachekeeper
# Logs appear when they are written, not when a buffer is full.
ENV PYTHONUNBUFFERED=1
# Asks this very worker over the broker: a process that is there but does not consume is not healthy. It is the worker's
# name that ends in the host's; an unset HOSTNAME asks nobody and fails.
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s --retries=3 \
    CMD celery -A cachekeeper inspect ping --timeout 5 --destination "celery@$HOSTNAME" --json > /dev/null
# Threads pool, prefetch, queues: all in the application's configuration, nothing to keep in step here.
CMD ["celery", "-A", "cachekeeper", "worker"]
