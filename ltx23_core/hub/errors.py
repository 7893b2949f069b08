"""What can go wrong between here and the hub, said with the next step."""
from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import LTX23Error
from .request import Request

_CLIENTS = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2", "h11"}
_TOO_MANY, _UNAUTHORISED, _FORBIDDEN, _TIMED_OUT = 429, 401, 403, 408
_SERVER_FAULT = 500


class HubError(LTX23Error):
    """A download that cannot be made."""


class OfflineError(HubError):
    """The hub cannot be reached at all."""


def is_broken_connection(error: BaseException) -> bool:
    """Whether an exception of any HTTP client says that the way to the server failed, not the server's answer."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return False
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return type(error).__module__.split(".")[0] in _CLIENTS


def status_of(error: BaseException) -> int:
    """The HTTP status that an exception stands for, 0 where it stands for none."""
    return getattr(getattr(error, "response", None), "status_code", None) or 0


def is_passing(error: BaseException) -> bool:
    """Whether trying again a moment later may help."""
    status = status_of(error)
    return status in (_TOO_MANY, _TIMED_OUT) or status >= _SERVER_FAULT or is_broken_connection(error)


@contextmanager
def explained(request: Request, address: str, manual: str) -> Iterator[None]:
    """Turn the exceptions of huggingface_hub and its HTTP client into ours.

    Args:
        request: what is asked for.
        address: of the repository's page.
        manual: how to get the file without this program, as a sentence.
    """
    try:
        yield
    except LTX23Error:
        raise
    except Exception as error:
        ours = _explain(error, request, address, manual)
        if ours is None:
            raise
        raise ours from error


def _explain(error: Exception, request: Request, address: str, manual: str) -> HubError | None:
    from huggingface_hub import errors as theirs

    what = f"{request.repo} ({request.revision})"
    if isinstance(error, theirs.OfflineModeIsEnabled):
        return OfflineError(f"{request.name} is not on this computer and HF_HUB_OFFLINE forbids to download "
                            "it", "a connection", f"Unset HF_HUB_OFFLINE. {manual}".rstrip())
    if isinstance(error, theirs.GatedRepoError):
        return _gated(request, address)
    if isinstance(error, theirs.RepositoryNotFoundError):
        return HubError(f"the hub knows no repository {request.repo}, or does not show it to you",
                        "an existing one, public or yours",
                        f"Check the spelling at {address}; for a private one run `hf auth login`.")
    if isinstance(error, theirs.RevisionNotFoundError):
        return HubError(f"{request.repo} has no revision {request.revision!r}", "a branch, a tag or a commit",
                        f"Look it up at {address}/commits, or leave it out.")
    if isinstance(error, theirs.EntryNotFoundError):
        return HubError(f"{what} has no file {request.path!r}", "the path of a file in the repository",
                        f"Look it up at {address}/tree/{request.revision}.")
    if isinstance(error, (theirs.FileMetadataError, json.JSONDecodeError)):
        return not_a_hub(address)
    if status := status_of(error):
        return _refused(status, request, address)
    if is_broken_connection(error):
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        return OfflineError(f"{request.name} is not on this computer and the hub cannot be reached "
                            f"({reason})", f"a connection to {address}",
                            f"Try again when there is one; what has arrived is kept. {manual}".rstrip())
    return None


def not_a_hub(address: str) -> HubError:
    """For an answer that no hub gives."""
    return HubError(f"{address} is not answered as a Hugging Face hub does",
                    "size, commit and hash of the file",
                    "Check HF_ENDPOINT and the proxy: a login page of the network answers like this.")


def _gated(request: Request, address: str) -> HubError:
    from huggingface_hub import get_token

    other = ""
    if request.instead:
        other = f" Or fetch {request.instead}, which needs no login."
    if get_token() is None:
        return HubError(f"{request.repo} is gated and you are not logged in to Hugging Face",
                        "a login whose account has accepted the owner's terms",
                        f"Accept them at {address}, run `hf auth login` (older: `huggingface-cli login`) or "
                        f"set HF_TOKEN, and try again.{other}")
    return HubError(f"{request.repo} is gated and the account of your Hugging Face token has no access",
                    "an account that has accepted the owner's terms",
                    f"Accept them at {address} with the same account; a fine-grained token also needs the "
                    f"permission for gated repositories.{other}")


def _refused(status: int, request: Request, address: str) -> HubError:
    fixes = {
        _UNAUTHORISED:
            "Your token is not valid: run `hf auth login` again, or unset HF_TOKEN for public files.",
        _FORBIDDEN: f"Open {address} in a browser: your account, token or network may not read it.",
        _TOO_MANY: "Wait some minutes; a login (`hf auth login`) raises the limit.",
    }
    return HubError(f"the hub answered {status} to {request.repo} {request.path}".rstrip(), "the file",
                    fixes.get(status, "Try again later; what has arrived is kept."))
