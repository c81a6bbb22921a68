"""Other people's programs, asked without what the user's settings would make of the answer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence


def ask(
    command: Sequence[str],
    timeout: float = 20.0,
    without: str | None = None,
    settings: Mapping[str, str] | None = None,
    errors: str = "replace",
) -> subprocess.CompletedProcess[str]:
    """What the program ``command`` prints, in English; nothing is typed to it. ``timeout`` in seconds.

    It sees the environment, but none of what begins with ``without``, and ``settings``; ``errors`` is as of
    bytes.decode. Raises OSError where it is not there, and subprocess.TimeoutExpired.
    """
    kept = {name: value for name, value in os.environ.items() if not (without and name.startswith(without))}
    return subprocess.run(
        command,
        env=kept | {"LC_ALL": "C", "LANGUAGE": "C"} | dict(settings or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors=errors,
        timeout=timeout,
    )
