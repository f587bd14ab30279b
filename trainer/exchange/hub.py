"""Pushing an exported folder to the Hugging Face Hub, by the Hub's own client.

The client finds the token where `hf auth login` puts it, or in HF_TOKEN, and the Hub's address in
HF_ENDPOINT.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from trainer.errors import InputError
from trainer.optional import optional
from trainer.shell import command
from trainer.track.console.progress import working
from trainer.wording import printable

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A model's repository on the Hub, which this user may write as far as the Hub tells ahead."""

    name: str
    """NAME, or USER/NAME or ORGANISATION/NAME."""
    is_private: bool
    """True if a new repository is to be private; one that is there stays as it is."""
    hub: Any
    """The client's module."""

    @classmethod
    def of(cls, name: str, *, is_private: bool) -> "Destination":
        """Check a name, and that the Hub knows the user.

        Raises:
            InputError: the client is missing, the name can be no repository's, nobody is logged
                in, or the Hub does not answer.
        """
        hub = _client()
        try:
            hub.utils.validate_repo_id(name)
        except ValueError as error:
            raise InputError(
                f"--push-to-hub {name}: no name of a repository ({_first_line(error)}): give NAME "
                "or USER/NAME"
            ) from None
        if hub.get_token() is None:
            raise InputError(f"--push-to-hub {name}: nobody is logged in: {_LOG_IN}")
        with _refusing(hub, f"--push-to-hub {name}"), working("asking the Hub who you are"):
            hub.HfApi().whoami()
        return cls(name=name, is_private=is_private, hub=hub)

    def push(self, folder: Path) -> str:
        """Make the repository unless it is there, commit all files of a folder; return its URL.

        Raises:
            InputError: the Hub refuses or does not answer; the folder stays as it is.
        """
        api, again = self.hub.HfApi(), command("hf", "upload", self.name, folder)
        with _refusing(self.hub, f"{folder} is written, but not pushed to {self.name}", fix=again):
            url = api.create_repo(self.name, private=self.is_private, exist_ok=True)
            with _bars(self.hub):
                api.upload_folder(
                    repo_id=url.repo_id, folder_path=folder, commit_message="txl export"
                )
        return str(url)


def _client() -> Any:
    """Return the client's module, with those of its parts that are used here."""
    does = "push to the Hugging Face Hub"
    hub = optional("huggingface_hub", extra="hub", does=does)
    for part in ("constants", "errors", "utils"):
        optional(f"huggingface_hub.{part}", extra="hub", does=does)
    return hub


@contextmanager
def _refusing(hub: Any, what: str, *, fix: str | None = None) -> Iterator[None]:
    """Turn every failure of the client into one line, which may end with a command to `fix` it."""
    try:
        yield
    except (hub.errors.HTTPError, OSError, LookupError, RuntimeError, ValueError) as error:
        causes, where = list(_causes_of(error)), hub.constants.ENDPOINT
        end = "" if fix is None else f"; then {fix}"
        answers = [cause for cause in causes if getattr(cause, "response", None) is not None]
        if answers:
            status = cast(Any, answers[0]).response.status_code
            told = getattr(answers[0], "server_message", None) or _first_line(answers[0])
            said = f"{where} answers {status}, {printable(told, most=300)}"
            remedy = _LOG_IN if status in {401, 403} else "try again later"
        elif any(isinstance(cause, (hub.errors.HTTPError, OSError)) for cause in causes):
            said = f"{where} cannot be reached ({_first_line(causes[-1])})"
            remedy = "see to the network (HF_ENDPOINT, proxies)"
        else:
            said = f"{where} or its client fails, {_first_line(causes[-1])}"
            remedy = "try again later, or with another huggingface_hub"
        raise InputError(f"{what}: {said}: {remedy}{end}") from None


def _causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, the one that it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def _first_line(error: BaseException) -> str:
    """Return what an error says first, or its kind."""
    return printable(str(error).strip().partition("\n")[0] or type(error).__name__, most=300)


@contextmanager
def _bars(hub: Any) -> Iterator[None]:
    """Let the client show its bars on a terminal alone."""
    if sys.stderr is not None and sys.stderr.isatty():
        yield
        return
    was_off = hub.utils.are_progress_bars_disabled()
    hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if not was_off:
            hub.utils.enable_progress_bars()
