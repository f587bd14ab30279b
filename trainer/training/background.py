"""Slow work of all ranks, done in a thread of each rank while training steps go on.

A job is a generator that every rank runs. Its own code runs in the main thread, at the same step on
all ranks, and may use collectives. Each function that it yields runs in the thread, and uses no
collectives. The job goes on when all ranks' functions have returned, on which the ranks agree
between steps.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

from trainer.distributed import Agreement, World

Job = Iterator[Callable[[], None]]

#: Seconds after which ranks that wait for work tell each other whether it gets on.
LOOK_S = 1.0


class Background:
    """A runner of one job at a time; all ranks call its methods but `close` at the same step."""

    def __init__(self, world: World) -> None:
        """Make a thread, which idles until a job starts."""
        self._progress, self._n_works = world.progress, 0
        self._agreement = Agreement(world, 2)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._job: Job = iter(())
        self._work: Future[None] | None = None

    def start(self, job: Job) -> None:
        """Finish the previous job, and begin this one; raise what either raises."""
        self.wait()
        self._job = job
        self._go_on()

    def advance(self) -> None:
        """Go on with the job if no rank was busy a step ago; never wait for work.

        Raises:
            BaseException: an error of the job or of this rank's work; the job is given up.
        """
        if self._work is None:
            return
        is_busy, gets_on = self._agreement.take()
        if gets_on:  # some rank's work does, for which this one may have to wait
            self._progress.note()
        if is_busy:
            self._tell(self._work)
            return
        done, self._work = self._work, None
        done.result()
        self._go_on()

    def wait(self) -> None:
        """Finish the job, if one runs; raise what `advance` raises."""
        while self._work is not None:
            wait([self._work], timeout=LOOK_S)
            self.advance()

    def close(self) -> None:
        """Wait for the thread's present work, and give up the rest of the job. Not collective."""
        self._thread.shutdown()
        self._work = None

    def _go_on(self) -> None:
        work = next(self._job, None)
        if work is not None:
            self._work = self._thread.submit(work)
            self._tell(self._work)

    def _tell(self, work: Future[None]) -> None:
        n_works = self._progress.n_works
        self._agreement.post([int(not work.done()), int(n_works > self._n_works)])
        self._n_works = n_works
