"""What the workers of a cell and the process that waits for them tell each other: an actor's class.

It imports no torch, and not ray: its process is there in a second.
"""

from __future__ import annotations

from typing import Any

from suite.pulse import Progress


class Relay:
    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.told = self.taken = 0
        self.actors: list[Any] = []
        self.failure: bytes | None = None
        self.left = self.is_to_leave = False

    # Told by the workers

    def began(self, worker: Any) -> None:
        self.actors.append(worker)

    def report(self, progress: Progress) -> None:
        self.progress.append(progress)
        self.told += 1

    def goes_on(self) -> bool:
        """Whether who waits has done with all that was reported."""
        return self.taken == self.told

    def has_left(self) -> None:
        self.left = True

    def failed(self, failure: bytes) -> None:
        """The first one counts: the others fail for want of it."""
        self.failure = self.failure or failure

    def leaves(self) -> bool:
        return self.is_to_leave

    # Told by who waits for them

    def leave(self) -> bool:
        """Asks the workers to leave; False where there are none yet."""
        self.is_to_leave = True
        return bool(self.actors)

    def reported(self) -> list[Progress]:
        """What has come since the last call."""
        new, self.progress = self.progress, []
        return new

    def done(self) -> None:
        """With one more of what ``reported`` has given."""
        self.taken += 1

    def workers(self) -> list[Any]:
        """Handles of the workers' processes."""
        return self.actors

    def outcome(self) -> tuple[bytes | None, bool]:
        """The first error, if any, and whether the cell was left."""
        return self.failure, self.left
