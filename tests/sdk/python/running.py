"""Workers on task queues of their own, names that never collide, and waiting for what becomes true."""

import asyncio
import contextlib
import time
import uuid
from typing import Any, AsyncIterator, Awaitable, Callable, Sequence

from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

WAIT_S_MAX = 20.0


def unique(prefix: str) -> str:
    """A name no other test, run or process uses."""
    return f"{prefix}-{uuid.uuid4().hex[:16]}"


@contextlib.asynccontextmanager
async def worker(
    client: Client,
    workflows: Sequence[type] = (),
    activities: Sequence[Callable[..., Any]] = (),
    *,
    task_queue: str | None = None,
    **options: Any,
) -> AsyncIterator[str]:
    """Runs a worker while the block runs; yields its task queue.

    Workflows run outside the SDK's sandbox, because several tests change what a workflow does from the outside.
    """
    task_queue = task_queue or unique("tq")
    async with Worker(
        client,
        task_queue=task_queue,
        workflows=workflows,
        activities=activities,
        workflow_runner=UnsandboxedWorkflowRunner(),
        **options,
    ):
        yield task_queue


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Polls `condition` until it returns something true, and returns that; fails after WAIT_S_MAX."""
    deadline = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < deadline:
        value = await condition()
        if value:
            return value
        await asyncio.sleep(0.05)
    raise AssertionError(f"did not happen within {WAIT_S_MAX} s: {what}")
