"""Counting what a process finishes, so that another thread can tell whether it still gets on."""


class Progress:
    """A count of what this process has finished, and the name of the last thing."""

    def __init__(self) -> None:
        """Begin with nothing finished."""
        self.count = 0
        """The number of things that the main thread has finished."""
        self.n_works = 0
        """The number of those that a thread has which works for the main one."""
        self.n_steps = 0
        """The number of steps of training that the main thread has finished."""
        self.last = "its start"
        """The name of the thing that the main thread has finished last."""

    def note(self, finished: str | None = None) -> None:
        """Count a thing that the main thread has finished; None is not worth a name."""
        self.last = finished or self.last
        self.count += 1

    def note_step(self, step: int) -> None:
        """Count a step of training, by its number in the run."""
        self.n_steps += 1
        self.note(f"step {step:,}")

    def note_work(self) -> None:
        """Count a part of the work that one other thread does for the main one."""
        self.n_works += 1
