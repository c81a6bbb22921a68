"""What Ray's exceptions are to a launch."""

from __future__ import annotations

import pytest
from ray.exceptions import RayActorError, RayTaskError

from suite.errors import UserError
from suite.grid import fault_of
from suite.pulse import Leave
from suite.running import WorkerDied

NODE = "The actor died because its node has died."


def died(text: str, preempted: bool = False) -> RayActorError:
    return RayActorError(error_msg=text, preempted=preempted)


def task(cause: Exception) -> RayTaskError:
    """As a trial's step raises it, with colours and a traceback."""
    text = f"\x1b[36mray::CellTrial.train()\x1b[39m\n  File one\n{type(cause).__name__}: {cause}"
    return RayTaskError("step", text, cause)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (None, "worker died"),
        (died("The actor died unexpectedly."), "worker died"),
        (died(NODE), "node lost"),
        (died("it was told to go", preempted=True), "node lost"),
        (died("killed: the node was low on memory"), "out of memory"),
        (task(Leave()), "left"),
        (task(RuntimeError("no reason")), "worker died"),
        (task(WorkerDied("A worker was lost: it ended.")), "worker died"),
        # A cell on several workers: the trial lives, and one of them was on the node.
        (task(WorkerDied(f"A worker was lost: {NODE}")), "node lost"),
        # Code that speaks of nodes is code.
        (task(RuntimeError(NODE)), "worker died"),
    ],
)
def test_each_is_of_one_kind(error: Exception | None, kind: str) -> None:
    found = fault_of(error)
    assert found.kind == kind
    assert "\x1b" not in found.message


def test_what_the_user_can_mend_is_raised() -> None:
    with pytest.raises(UserError, match="mend this"):
        fault_of(task(UserError("mend this")))
