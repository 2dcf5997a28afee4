# The image of the worker, and of the `cachekeeper` command (relay, change stream, HTTP door).
# To build it: docker build -t cachekeeper-worker .

FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY cachekeeper cachekeeper
COPY lookups lookups
COPY producers producers
COPY worker worker
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
# A fixed number, so that an orchestrator sees without the image that the user is not root. No home, no shell.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin cachekeeper
# The constraints are the tested versions. The extra `http`, which includes `cli`, is for the command. The extra
# `embedded` is left out: mongod's licence allows us to run it, but not to ship it.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt "$(ls /wheels/cachekeeper-*.whl)[http]"
USER 10001
# Celery looks for modules in the working directory. This one is empty, and its user cannot write to it.
WORKDIR /opt/cachekeeper
# Log lines appear at once, not when a buffer is full.
ENV PYTHONUNBUFFERED=1
# Ask this worker over the broker: a process that runs but does not consume is unhealthy. The worker's name ends in the
# host's name. If HOSTNAME is not set, no worker has the name, and the check fails.
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s --retries=3 \
    CMD celery -A cachekeeper inspect ping --timeout 5 --destination "celery@$HOSTNAME" --json > /dev/null
# The application's configuration has the thread pool, the prefetch count and the queues; no options are needed here.
CMD ["celery", "-A", "cachekeeper", "worker"]
