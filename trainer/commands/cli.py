"""The entry points of the command ``txl`` and of the training command ``launch/train.py``.

They handle signals, the standard streams and the exit code of a process. Little is imported before
signals are handled, because the imports of a run take seconds.
"""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping, Sequence

from trainer.budget import shortage
from trainer.commands.interrupts import Interrupts
from trainer.commands.standard_streams import drop_standard_output, mend_standard_streams
from trainer.errors import (
    CorpusError,
    Exit,
    InputError,
    LoneRefusalError,
    LostRankError,
    NonFiniteError,
    ShortageError,
)
from trainer.launcher_report import tell_launcher
from trainer.launchers import is_first_task
from trainer.training.ending.stopping import StopRequests

#: The most characters of an error's line that are printed: enough to list all wrong fields.
_SHOWN = 4000


def train_main(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    """Run one process of a training job, as `launch/train.py` does; return its exit code."""
    mend_standard_streams()
    stops = StopRequests(speaks=is_first_task(environ))
    stops.install()
    _watch_launchers(environ, stops)

    def train() -> int:
        """Import torch, choose the accelerator, and train."""
        from trainer.commands.planning import told_of_dry_run
        from trainer.config.command_line.arguments import parse_train

        # Otherwise a rank whose peer is gone gets a stack in C++ for each try to reach it. Reading
        # the arguments imports the model's factory, and so torch, which looks only then.
        environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        if told_of_dry_run(argv, environ):
            return Exit.DONE
        arguments = parse_train(argv)
        _tell_terminal(environ)
        import torch

        if arguments.device == "cpu" or not torch.cuda.is_available():
            environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed reads it at import
        from trainer.training.session import run_training

        code = run_training(arguments, environ, stops)
        if code is not Exit.DONE:
            tell_launcher(f"{stops.reason}: {code.describe()}".lstrip(": "), environ=environ)
        return code

    try:
        return _exit_code(train, environ, close=stops.close)
    except Exception:
        tell_launcher(traceback.format_exc(), environ=environ)
        raise


def _watch_launchers(environ: Mapping[str, str], stops: StopRequests) -> None:
    from trainer.training.peers.launcher import launchers, watch_launchers

    watch_launchers(launchers(environ), stops.launcher_ended)


def _tell_terminal(environ: Mapping[str, str]) -> None:
    """Tell a user at a terminal why nothing happens yet, and log there from now on.

    Elsewhere nothing is logged before the run has its directory: a refusal stays one line.
    """
    if not sys.stderr.isatty() or not is_first_task(environ):
        return
    import logging

    from trainer.track.console.logs import setup_logging

    setup_logging(0)
    logging.getLogger(__name__).info("loading PyTorch and DeepSpeed")


def main() -> None:
    """Run the command ``txl``; exit with a code of `Exit`."""
    argv = [arg for arg in sys.argv[1:] if not arg.startswith("--local_rank")]
    if argv[:1] == ["train"]:
        sys.exit(train_main(argv[1:], os.environ))
    mend_standard_streams()
    interrupts = Interrupts()
    interrupts.install()
    try:
        code = _exit_code(lambda: _run_command(argv), os.environ, close=interrupts.close)
    except BaseException:  # interrupted imports and libraries may raise anything
        if interrupts.exit_code is None:
            raise
        code = interrupts.exit_code
        interrupts.close()
    sys.exit(code)


def _run_command(argv: Sequence[str]) -> int:
    import logging

    from trainer.commands.command_line import parse_command
    from trainer.wording import LineFormatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        code: Exit | None = parse_command(argv).run()
    except BrokenPipeError:
        raise
    except OSError as error:
        if shortage.is_shortage(error):
            raise
        where, what = error.filename or "input or output", error.strerror or "cannot be used"
        raise InputError(f"{where}: {what.lower()}") from error
    return code or Exit.DONE


def _exit_code(
    work: Callable[[], int], environ: Mapping[str, str], *, close: Callable[[], None]
) -> int:
    """Do `work`, flush its output, call `close`, and return the exit code.

    An `InputError` or a shortage of memory is printed in one line. Other errors are not caught.
    """
    try:
        code = _written(work)
    except CorpusError as error:
        close()
        _refuse(error, environ)
        if environ.get("WORLD_SIZE", "1") != "1":
            os._exit(Exit.CORPUS)  # a normal end waits for ranks that wait for this one
        return Exit.CORPUS
    except InputError as error:
        close()  # when the first rank ends, a launcher ends all others
        return _refuse(error, environ)
    except NonFiniteError as error:
        close()
        _tell(f"error: {error}", environ)
        return Exit.NONFINITE
    except BrokenPipeError:
        drop_standard_output()
        code = Exit.UNREAD
    except LostRankError as error:
        close()
        if error.speaks:
            _tell(f"error: {error}", environ)
        os._exit(error.code)  # a normal end waits for ranks that are gone
    except (ShortageError, MemoryError, RuntimeError, OSError) as error:
        if not isinstance(error, ShortageError) and not shortage.is_shortage(error):
            raise
        close()
        _tell_shortage(error, environ)
        if environ.get("WORLD_SIZE", "1") != "1":
            os._exit(Exit.OUT_OF_MEMORY)  # a normal end waits for ranks that wait for this one
        return Exit.OUT_OF_MEMORY
    close()
    return code


def _tell_shortage(error: Exception, environ: Mapping[str, str]) -> None:
    """Print a shortage of memory on the rank that ran out; other ranks only wait for that one."""
    line = f"error: {error if isinstance(error, ShortageError) else shortage.describe(error)}"
    if not isinstance(error, ShortageError) or error.is_own:
        _tell(line, environ)
    else:
        tell_launcher(line, environ=environ)


def _tell(line: str, environ: Mapping[str, str]) -> None:
    """Print a line, and leave it for the launcher's report."""
    tell_launcher(line, environ=environ)
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _written(work: Callable[[], int]) -> int:
    """Do `work` and flush its output; at its own end Python would report a failure differently."""
    try:
        code = work()
    except SystemExit as ended:  # after --help, or for an unknown word
        if isinstance(ended.__context__, BrokenPipeError):  # rich's way to report it
            raise ended.__context__ from None
        code = ended.code if isinstance(ended.code, int) else Exit.DONE
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_standard_output()
        raise InputError(f"standard output cannot be written: {error.strerror}") from None
    return code


def _refuse(error: InputError, environ: Mapping[str, str]) -> int:
    """Print a refusal once, on however many ranks it comes; return its exit code."""
    from trainer.outside import printable

    text = "error: " + "\n".join(printable(line, most=_SHOWN) for line in error.lines)
    tell_launcher(text, environ=environ)
    if not is_first_task(environ) and not isinstance(error, LoneRefusalError):
        time.sleep(3)  # a launcher ends all ranks with the first: let rank 0 print
        return Exit.BAD_INPUT
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        return Exit.BAD_INPUT  # stderr's reader left, or its disk is full
    return Exit.BAD_INPUT
