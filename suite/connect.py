"""Ray for one launch: one of its own on this machine, which nobody else gets into, or a cluster that is there."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.exceptions import AuthenticationError, RayError

from suite import preflight, ray_private
from suite.errors import UserError
from suite.private import FOLDER, others_may_change, own_folder
from suite.room import cores
from suite.terminal import say

SESSION = re.compile(rf"/{FOLDER}\w{{8}}/r/session_")
"""In the arguments of each process of its Ray."""
SOCKET = 107
"""Characters that the path of a socket may have (104 with its end on macOS)."""
KNOCK = 8.0
"""Seconds that a host has to take a connection."""
ANSWER = 20.0
"""Seconds that what has taken it has to answer as Ray does."""
SECRET = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
"""What of the environment says which cluster a process belongs to."""

# In a process of its own: Ray's client waits for 40 s, hears no signal meanwhile, and may abort.
_ASK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]); print('answered')"


@contextmanager
def started(cpus: int | None, gpus: int | None) -> Iterator[None]:
    """Ray on this machine for this process alone, on the loopback, with a token that only its user can read.

    Raises UserError where Ray cannot start. Nothing of it is left behind; what a launch left that was killed is
    swept by the next one.
    """
    preflight.check_gpus(gpus)
    with (
        _own_folder() as folder,
        _environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{folder}/token"}),
    ):
        try:
            try:
                with ray_private.loopback_alone():
                    ray.init(
                        address="local",
                        num_cpus=cpus or cores(),
                        num_gpus=gpus,
                        include_dashboard=False,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        _node_ip_address=ray_private.LOOPBACK,
                        _temp_dir=f"{folder}/r",  # Ray opens the folder that it is given to everybody.
                    )
            except UserError:
                raise
            except (OSError, ValueError, RuntimeError, RayError) as error:
                raise UserError(
                    f"Ray cannot start here: {_one_line(error)} Mend that, or give --no-ray to run one cell after "
                    "another."
                ) from None
            ray_private.check_private()
            yield
        finally:
            ray.shutdown()


@contextmanager
def joined(address: str) -> Iterator[None]:
    """The Ray cluster at ``address``, host:port or auto, which says what it found.

    Raises UserError where none answers there, or not to this process.
    """
    named = os.environ.get("RAY_ADDRESS")
    named = None if named == "auto" else named
    found = _found(named) if address == "auto" else address
    host, port = _host_and_port(found)
    _knock(found, host, port)
    try:
        # As Ray does: a token that lies in the home is sent to the cluster that it finds by itself.
        ray_private.need_token(automatic=address == "auto" and not named)
    except RayError as error:
        raise UserError(_not_let_in(found, error)) from None
    _ask(found)
    if address == "auto":
        say(f"auto: the Ray cluster at {found}.")
    try:
        ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError as error:
        raise UserError(_not_let_in(found, error)) from None
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise UserError(
            f"The Ray cluster at {found} answers, and this process cannot join it: {_one_line(error)} Give the "
            "command on one of its nodes, with the Python and the requirements.lock of the cluster."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _not_let_in(address: str, error: Exception) -> str:
    return (
        f"The Ray cluster at {address} answers, but lets nobody in without its token: {_one_line(error)} Export "
        "RAY_AUTH_MODE=token, with the head's token in ~/.ray/auth_token (mode 600) or in the file that "
        "RAY_AUTH_TOKEN_PATH names."
    )


def _found(named: str | None) -> str:
    try:
        found = named or ray_private.found_address(SESSION)
    except OSError as error:
        raise UserError(
            f"auto cannot read which Ray runs here: {error.strerror}: {error.filename}. Give --address HOST:PORT."
        ) from None
    if not found or found == "local":
        raise UserError(
            "auto finds no Ray cluster: RAY_ADDRESS names none, and none of this machine can be joined. Start one "
            "(`ray start --head`), give --address HOST:PORT, or leave --address out to use this machine."
        )
    return found


def _host_and_port(address: str) -> tuple[str, int]:
    """Of host:port, an address of IPv6 in brackets; raises UserError for another form."""
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if "/" in address or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
        what = " (of Ray Client, or of a web page, is another port's)" if "://" in address else ""
        raise UserError(
            f"Expected the address of a Ray cluster's head as host:port, such as 10.0.0.1:6379, or auto; received "
            f"{address!r}{what}. `ray start --head` prints it."
        )
    return host, int(port)


def _knock(address: str, host: str, port: int) -> None:
    """Raises UserError where nothing listens; Ray itself would wait there for ever."""
    try:
        socket.create_connection((host, port), timeout=KNOCK).close()
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"No Ray cluster answers at {address}: {error}. Start one there (`ray start --head`), or leave "
            "--address out to use this machine."
        ) from None


def _ask(address: str) -> None:
    """Raises UserError where what listens is no Ray, or does not let this process in."""
    # Neither what lies in the user's folder nor what he wants of warnings is for the client to hear.
    command = [sys.executable, "-P", "-W", "ignore", "-c", _ASK, ray_private.as_dialled(address)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=ANSWER
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"What listens at {address} does not answer as a Ray cluster within {ANSWER:.0f} s. See whether it is "
            "the port that `ray start --head` printed, and whether the head still runs."
        ) from None
    if "answered" in done.stdout:
        return
    last = RuntimeError(done.stderr.strip().rpartition("\n")[2] or f"its client ended with {done.returncode}")
    if "AuthenticationError" in done.stderr or "Unauthenticated" in done.stderr:
        raise UserError(_not_let_in(address, last))
    raise UserError(
        f"The Ray cluster at {address} cannot be asked: {_one_line(last)} See `ray status --address {address}`."
    )


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder of this launch, 0700, with its token, 0600."""
    given = os.environ.get("RAY_TMPDIR")
    place = Path(given or tempfile.gettempdir()).absolute()
    if not given and _too_long(place):
        place = Path("/tmp")  # As Ray itself does on macOS, whose own are long.
    if _too_long(place):
        raise UserError(
            f"Ray cannot start here: the path of RAY_TMPDIR, {place}, is too long for its sockets, which may have "
            f"{SOCKET} characters. Give RAY_TMPDIR=a shorter one, such as /tmp, or --no-ray."
        )
    try:
        place.mkdir(parents=True, exist_ok=True)
        if why := others_may_change(place):
            raise UserError(
                f"Ray cannot start here: {why}, so that others could put files of theirs into the launch's. Give "
                "RAY_TMPDIR=a folder of your own, or --no-ray."
            )
        stack = contextlib.ExitStack()
        folder = stack.enter_context(own_folder(place))
    except OSError as error:
        raise UserError(
            f"Ray cannot start here: {error.strerror}: {error.filename or place}. Give RAY_TMPDIR=a short path of "
            "a folder that you can write, or --no-ray."
        ) from None
    with stack:
        with open(folder / "token", "x", opener=functools.partial(os.open, mode=0o600)) as token:
            token.write(secrets.token_hex(32))
        yield folder


def _too_long(place: Path) -> bool:
    longest = place / f"{FOLDER}12345678/r/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    return len(os.fsencode(longest)) > (SOCKET if sys.platform == "linux" else SOCKET - 4)


@contextmanager
def _environment(own: Mapping[str, str]) -> Iterator[None]:
    """What this process and its children know of clusters is ``own``, and afterwards what it was."""
    before = {name: os.environ.pop(name) for name in SECRET if name in os.environ}
    os.environ.update(own)
    try:
        ray_private.read_token_again()
        yield
    finally:
        for name in SECRET:
            os.environ.pop(name, None)
        os.environ.update(before)
        ray_private.read_token_again()


def _one_line(error: Exception) -> str:
    """What it says first, as a sentence."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip().partition("\n")[0] or type(error).__name__
    return text if text.endswith(".") else f"{text}."
