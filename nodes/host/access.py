"""Who reaches ComfyUI's server, and what those may have it download."""
from __future__ import annotations

import ipaddress
import os

from comfy.cli_args import args as host_arguments

from ...ltx23_core.errors import RequestError

SWITCH = "LTX23_ALLOW_FETCH"  # environment variable of the server's owner
_YES = {"1", "true", "yes", "on"}


def is_local(listen: str) -> bool:
    """Whether a server that listens at these addresses (comma separated, as --listen takes them) is this computer's.

    Names other than localhost, and an empty address, which stands for all, are not.
    """
    return all(map(_is_loopback, listen.split(",")))


def _is_loopback(address: str) -> bool:
    address = address.strip().strip("[]")
    if address.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def check_may_download() -> None:
    """Refuse downloads to whoever reaches the server from elsewhere, unless its owner allows them.

    Raises:
        RequestError: says how the owner allows it, and how it is done without the server.
    """
    allowed = os.environ.get(SWITCH, "").strip().lower() in _YES
    if allowed or is_local(host_arguments.listen):
        return
    raise RequestError(f"download is on, but other computers reach this server (--listen {host_arguments.listen})",
                       "a server that listens on loopback alone, or a permission of its owner",
                       f"Its owner sets {SWITCH}=1 and restarts it, or runs `python -m ltx23_core fetch` there.")
