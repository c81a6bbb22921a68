"""What the suite needs of Ray's private parts, as Ray 2.60 has them. Nothing else here reaches into them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from suite.errors import UserError

KNOWN = "2.60"
"""The version whose parts these are."""
LOOPBACK = "127.0.0.1"


@contextmanager
def loopback_alone() -> Iterator[None]:
    """A cluster that is started meanwhile listens to this machine alone, as Ray does on macOS by itself.

    Raises UserError where this Ray cannot be kept to it.
    """
    with _parts():
        from ray._private import ray_constants

        before = ray_constants.ENABLE_RAY_CLUSTER
    # Ray puts an address that others reach in place of the one of the loopback, wherever this is true.
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def check_private() -> None:
    """Raises UserError unless the cluster of this process is on the loopback alone and asks for a token."""
    with _parts():
        from ray._private import worker

        compiled, node = _compiled(), _any(worker.global_worker.node)
        address, mode = node.node_ip_address, compiled.get_authentication_mode()
        private = address == LOOPBACK and mode == compiled.AuthenticationMode.TOKEN
    if not private:
        raise unknown_version(f"its cluster listens at {address}, and its authentication is {mode}")


@contextmanager
def hearing_of_deaths() -> Iterator[None]:
    """What Tune runs meanwhile outlives every end of a worker.

    Tune ends the launch with all its cells at an actor's error that is neither its death nor one of its own code.
    Such is the end of a worker whose node runs low on memory (ray.exceptions.OutOfMemoryError): Tune hears of it
    as if the actor had died.
    """
    with _parts():
        from ray.air.execution._internal.actor_manager import RayActorManager

        manager = _any(RayActorManager)
        before = {name: getattr(manager, name) for name in ("_actor_start_failed", "_actor_task_failed")}
    for name, failed in before.items():
        setattr(manager, name, _told_of_deaths(failed))
    try:
        yield
    finally:
        for name, failed in before.items():
            setattr(manager, name, failed)


def _told_of_deaths(failed: Callable[..., None]) -> Callable[..., None]:
    def hear(*told: Any, **named: Any) -> None:
        failed(*map(_as_death, told), **{name: _as_death(one) for name, one in named.items()})

    return hear


def _as_death(told: Any) -> Any:
    if isinstance(told, RayError) and not isinstance(told, RayActorError | RayTaskError):
        # The first line says what there is to say; the others list all that ran on the node.
        return RayActorError(error_msg=str(told).strip().partition("\n")[0])
    return told


def read_token_again() -> None:
    """Has Ray see what the environment says about its token now; it keeps what it has read once."""
    with _parts():
        _compiled().Config.initialize("")
        _compiled().AuthenticationTokenLoader.instance().reset_cache()


def need_token(automatic: bool) -> None:
    """Raises RayError where a token is to be sent and there is none.

    ``automatic`` as for a cluster that Ray finds by itself: a token that there is will be sent.
    """
    with _parts():
        from ray._private.authentication import authentication_token_setup as setup
    if automatic:
        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    setup.ensure_token_if_auth_enabled(None, create_token_if_missing=False)


def found_address(ours: re.Pattern[str]) -> str | None:
    """The address of the Ray on this machine that `auto` means; None where there is none.

    Not that of a launch on one machine, which has ``ours`` in its arguments: it lets nobody in.
    """
    with _parts():
        from ray._private import services, utils

        last = utils.read_ray_address(None)
        _any(services.find_gcs_addresses).cache_clear()
        running = set(services.find_gcs_addresses())
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if ours.search(command):
            running -= {word.rpartition("=")[2] for word in command.split()}
    return last if last and len(running) != 1 else min(running, default=None)


def as_dialled(address: str) -> str:
    """What Ray makes of a host and port before it connects."""
    with _parts():
        from ray._private import services

        return services.canonicalize_bootstrap_address(address) or address


def unknown_version(why: str) -> UserError:
    """For a Ray whose parts are others."""
    return UserError(
        f"Expected Ray {KNOWN}, whose own parts a launch relies on; received {ray.__version__}: {why}. Install "
        "requirements.lock, or give --no-ray."
    )


def _compiled() -> Any:
    """The module in C++, of which no types are known."""
    return importlib.import_module("ray._raylet")


def _any(part: Any) -> Any:
    """Whose types Ray does not tell."""
    return part


@contextmanager
def _parts() -> Iterator[None]:
    try:
        yield
    except (ImportError, AttributeError, TypeError) as error:
        raise unknown_version(str(error)) from None
