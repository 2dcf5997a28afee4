"""Workers whose broker refuses them."""

from cachekeeper.devservers.worker_process import WorkerProcess


class Refused(WorkerProcess):
    """A worker that is to say a sentence, and is ready then."""

    says = ""

    def _not_ready(self) -> str | None:
        return None if self.says in self.log_tail(1000) else f"it has not said: {self.says}"
