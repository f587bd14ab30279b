"""Slow work of all ranks, done by a thread of each while steps go on.

A job is a generator. What it does between its `yield`s runs in the main thread of all ranks at
the same step, and may talk to the others. What it yields is work without collectives, for the
thread; the job goes on once all ranks have done theirs, which they agree on between steps.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from trainer.distributed import Agreement, World

Job = Iterator[Callable[[], None]]


class Background:
    """Does one job at a time; all ranks call `start`, `advance` and `wait` at the same step."""

    def __init__(self, world: World) -> None:
        """One thread, idle until a job comes."""
        self._agreement = Agreement(world, 1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._job: Job = iter(())
        self._work: Future[None] | None = None

    def start(self, job: Job) -> None:
        """Finish the job before, and begin this one; raises what they raise."""
        self.wait()
        self._job = job
        self._go_on()

    def advance(self) -> None:
        """Go on with the job if, a step ago, no rank was busy any more. Waits for no work.

        Raises:
            BaseException: what the job raises, or this rank's work did; the job is given up.
        """
        if self._work is None:
            return
        (is_busy,) = self._agreement.take()
        if is_busy:
            self._tell(self._work)
            return
        done, self._work = self._work, None
        done.result()
        self._go_on()

    def wait(self) -> None:
        """Finish the job, if there is one; raises as `advance` does."""
        while self._work is not None:
            self._work.exception()  # only to wait: `advance` raises it
            self.advance()

    def close(self) -> None:
        """Let the thread finish what it is at, and give up the rest of the job. Not collective."""
        self._thread.shutdown()
        self._work = None

    def _go_on(self) -> None:
        work = next(self._job, None)
        if work is not None:
            self._work = self._thread.submit(work)
            self._tell(self._work)

    def _tell(self, work: Future[None]) -> None:
        self._agreement.post([int(not work.done())])
