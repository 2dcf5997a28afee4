"""Run steps on a Redis client, one or many in a pipeline, and turn every failure into `CacheUnavailable`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from redis import RedisCluster
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from cachekeeper.errors import CacheOverloaded, CacheUnavailable
from cachekeeper.metrics import COUNTERS, log_once
from cachekeeper.protocol.lazy_cluster import LazyCluster
from cachekeeper.protocol.refusals import is_pool_full, server_name, warn_if_refused
from cachekeeper.protocol.scripts import invalidate_within, mend
from cachekeeper.values.fold import escape_braces
from cachekeeper.values.keys import key_of_meta, meta_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from cachekeeper.protocol.scripts import Step
    from cachekeeper.values.keys import Template

Outcome = TypeVar("Outcome")

# A pipeline is one write and one read. This limits the memory that both sides need for it.
STEPS_PER_PIPELINE = 1000


@contextmanager
def cache_errors(doing: str, source: object = None) -> Iterator[None]:
    """Turn errors of redis-py into `CacheUnavailable`, or into `CacheOverloaded` if the connection pool was full.

    The server's own text is kept only as the cause, because it may quote arguments.

    Args:
        doing: the operation, for the error's text.
        source: the client, or the object that makes it. If its server refuses, this is logged, once for each cause.
    """
    try:
        yield
    except (RedisError, RedisClusterException) as error:  # second: a Cluster that is down; it is not a RedisError
        if is_pool_full(error):
            raise CacheOverloaded(
                f"no connection to Redis was free while {doing}: raise max_connections in its URL, or leave that "
                "option out"
            ) from error
        if source is not None:
            # Warned here, not where the error is handled: a caller that only writes has no breaker to warn for it.
            warn_if_refused(server_name(source), error)
        raise CacheUnavailable(f"Redis failed while {doing} ({type(error).__name__})") from error


class Store:
    """Runs the protocol on one Redis client.

    Args:
        source: a redis-py client that returns bytes (`decode_responses=False`), also of a Cluster; or a `LazyCluster`.
    """

    def __init__(self, source: Redis | RedisCluster | LazyCluster) -> None:
        self.source = source
        self.is_cluster = isinstance(source, RedisCluster | LazyCluster)

    @property
    def client(self) -> Redis:
        """The client.

        Raises:
            CacheUnavailable: it belongs to a Cluster, is not made yet, and cannot be made now.
        """
        return cast("Redis", self.source.client() if isinstance(self.source, LazyCluster) else self.source)

    def getter(self) -> Callable[[str], Any]:
        """Return the plain `GET`; the client's own if there is one, so that a hit costs no more.

        The function raises redis-py's errors, and CacheUnavailable as the property `client` does.
        """

        def get(key: str) -> Any:
            return self.client.get(key)

        return get if isinstance(self.source, LazyCluster) else self.source.get

    def run(self, step: Step[Outcome]) -> Outcome:
        """Run one step, in one round trip.

        Raises:
            CacheUnavailable: Redis did not answer, or refused.
        """
        with cache_errors(f"running {step.script.name}", self.source):
            try:
                answer = self._call(step)
            except ResponseError as error:
                if not _is_wrong_type(error):
                    raise
                self._mend([step])
                answer = self._call(step)
        return step.parse(answer)

    def run_all(self, steps: Sequence[Step[Any]]) -> list[Any]:
        """Run many steps in as few round trips as possible. Return their outcomes in the same order.

        Raises:
            CacheUnavailable: some step failed. The others may have been run; all may be run again.
        """
        if len(steps) == 1:
            return [self.run(steps[0])]  # also one round trip, but half the work for the client
        outcomes: list[Any] = []
        for at in range(0, len(steps), STEPS_PER_PIPELINE):
            outcomes += self._pipeline(steps[at : at + STEPS_PER_PIPELINE])
        return outcomes

    def invalidate_within(self, template: Template, limit: int, names: Sequence[str], *, filter_key: str) -> None:
        """Invalidate the key of every text of up to `limit` characters that occurs in one of the folded `names`.

        In a Cluster the keys lie in many slots, so neither a script nor a filter works for them. There every possible
        key is deleted, each in one command with its metadata, which lies in the same slot.

        Raises:
            CacheUnavailable: some keys may be left; call it again.
        """
        if not self.is_cluster:
            self.run_all(invalidate_within(template, limit, names, filter_key=filter_key))
            return
        keys = [template.key(escape_braces(text)) for text in substrings(names, limit)]
        for at in range(0, len(keys), STEPS_PER_PIPELINE):
            with cache_errors("invalidating the searches of a name", self.source):
                pipe: Any = self.client.pipeline(transaction=False)
                for key in keys[at : at + STEPS_PER_PIPELINE]:
                    # Not `pipe.unlink`: a Cluster's pipeline refuses several keys, also of one slot.
                    pipe.execute_command("UNLINK", key, meta_key(key))
                pipe.execute()

    def parts(self, template: Template) -> Iterator[str]:
        """Yield the id or text in every key of `template` on this server, and in every metadata key beside one.

        Does one complete `SCAN`, so the cost is linear in all keys of the server. A part may come several times.

        Raises:
            CacheUnavailable: Redis failed during the scan.
        """
        # One pattern finds both: a metadata key is the key in braces, plus a suffix.
        prefix = "".join(f"\\{letter}" if letter in "*?[]^\\" else letter for letter in template.prefix)
        scan = self.client.scan_iter(match=f"*{prefix}*", count=1000)
        while True:
            with cache_errors("scanning the keys", self.source):
                found = next(scan, None)
            if found is None:
                return
            try:
                key = key_of_meta(found.decode())
            except UnicodeDecodeError:
                continue  # not a key of cachekeeper
            part = template.part(key)
            if part is not None:
                yield part

    def _call(self, step: Step[Any]) -> Sequence[Any]:
        try:
            answer = self.client.evalsha(step.script.sha, len(step.keys), *step.keys, *step.args)
        except NoScriptError:  # a new, restarted or flushed server; EVAL also loads the script
            answer = self.client.eval(step.script.source, len(step.keys), *step.keys, *step.args)
        return cast("Sequence[Any]", answer)

    def _mend(self, steps: Sequence[Step[Any]]) -> None:
        """Delete metadata of a wrong Redis type. The steps that met it may be run again."""
        COUNTERS.add("damaged_metadata", len(steps))
        log_once("damaged:metadata", "a metadata key held a value that cachekeeper never writes; it is deleted")
        for meta in {key for step in steps for key in step.keys if key != key_of_meta(key)}:
            self._call(mend(meta))

    def _pipeline(self, steps: Sequence[Step[Any]]) -> list[Any]:
        with cache_errors(f"running {len(steps)} steps", self.source):
            pipe: Any = self.client.pipeline(transaction=False)
            for step in steps:
                # Not `pipe.evalsha`: a Cluster's pipeline refuses that method, but sends this command by its slot.
                pipe.execute_command("EVALSHA", step.script.sha, len(step.keys), *step.keys, *step.args)
            answers = pipe.execute(raise_on_error=False)
            self._again(steps, answers, [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)])
            wrong = [at for at, answer in enumerate(answers) if _is_wrong_type(answer)]
            if wrong:
                self._mend([steps[at] for at in wrong])
                self._again(steps, answers, wrong)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return [step.parse(answer) for step, answer in zip(steps, answers, strict=True)]

    def _again(self, steps: Sequence[Step[Any]], answers: list[Any], places: Sequence[int]) -> None:
        """Run the steps at these places once more, with the source of their scripts, and store their answers."""
        if not places:
            return
        pipe: Any = self.client.pipeline(transaction=False)
        for at in places:
            step = steps[at]
            pipe.execute_command("EVAL", step.script.source, len(step.keys), *step.keys, *step.args)
        for at, answer in zip(places, pipe.execute(raise_on_error=False), strict=True):
            answers[at] = answer


def _is_wrong_type(answer: object) -> bool:
    """Return whether a script met a key of another type. Servers before 7.0 put other words before the error."""
    return isinstance(answer, ResponseError) and "WRONGTYPE" in str(answer)


def substrings(names: Sequence[str], limit: int) -> dict[str, None]:
    """Return each distinct text of up to `limit` characters in one of `names`, in order of first occurrence."""
    return {
        name[first:last]: None
        for name in names
        for first in range(len(name))
        for last in range(first + 1, min(first + limit, len(name)) + 1)
    }
