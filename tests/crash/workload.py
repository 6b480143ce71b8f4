"""The workflow that runs while the server is killed, and the client side that remembers what was acknowledged."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError
from temporalio.service import RPCError

SLOTS = 4
RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_interval=timedelta(seconds=1))

executions_at_most_once: Counter[str] = Counter()


@activity.defn
async def flaky(failures: int) -> int:
    """Fails on its first attempts."""
    if activity.info().attempt <= failures:
        raise RuntimeError("not yet")
    return activity.info().attempt


@activity.defn
async def at_most_once() -> None:
    """Has one attempt only: it may get lost, and must never run twice."""
    executions_at_most_once[activity.info().workflow_id] += 1


@workflow.defn
class Survivor:
    """Needs a signal for every slot, with an activity and a timer after each. Returns the signals' nonces in order."""

    def __init__(self) -> None:
        self.nonces: list[str] = []
        self.slots: set[int] = set()

    @workflow.signal
    def fill(self, slot: int, nonce: str) -> None:
        self.nonces.append(nonce)
        self.slots.add(slot)

    @workflow.run
    async def run(self) -> list[str]:
        timeout = timedelta(seconds=3)
        once = workflow.start_activity(
            at_most_once, start_to_close_timeout=timeout, retry_policy=RetryPolicy(maximum_attempts=1)
        )
        for slot in range(SLOTS):
            await workflow.wait_condition(lambda: slot in self.slots)
            failures = workflow.random().randrange(3)
            await asyncio.gather(
                workflow.execute_activity(flaky, failures, start_to_close_timeout=timeout, retry_policy=RETRY),
                workflow.sleep(workflow.random().uniform(0.2, 1.5)),
            )
        try:
            await once
        except ActivityError:
            pass
        return self.nonces


@dataclass
class Acknowledged:
    """What the server has said yes to, and what it may or may not have taken."""

    runs: dict[str, str] = field(default_factory=dict)
    """Workflow id → run id of every acknowledged start."""
    signals: dict[str, set[str]] = field(default_factory=dict)
    """Workflow id → nonces of acknowledged signals."""
    doubtful: set[str] = field(default_factory=set)
    """Nonces of signals that ended in an error: there once, or not at all."""
    refused: int = 0
    """Requests that ended in an error, which killed servers explain."""


async def lane(client: Client, number: int, queue: str, stop: asyncio.Event, seen: Acknowledged) -> None:
    """Runs one workflow after the other, through whatever happens to the server, until `stop`."""
    dice = random.Random(number)
    count = 0
    while not stop.is_set():
        handle = await started(client, f"{queue}-{number}-{count}", queue, seen)
        for slot in range(SLOTS):
            await asyncio.sleep(dice.uniform(0, 1))
            await signalled(handle, slot, seen)
        await finished(handle, seen)
        count += 1


async def started(client: Client, id: str, queue: str, seen: Acknowledged) -> WorkflowHandle:
    """Starts the workflow, as often as it takes to hear a yes."""
    while True:
        try:
            handle = await client.start_workflow(
                Survivor.run,
                id=id,
                task_queue=queue,
                task_timeout=timedelta(seconds=3),
                # A start without an answer may have happened; it is then the one to go on with, even if already closed.
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                rpc_timeout=timedelta(seconds=5),
            )
        except RPCError:
            seen.refused += 1
            await asyncio.sleep(0.2)
            continue
        seen.runs[id] = handle.first_execution_run_id
        return handle


async def signalled(handle: WorkflowHandle, slot: int, seen: Acknowledged) -> None:
    """Fills the slot; a signal without an answer is followed by one with another nonce."""
    for attempt in range(1000):
        nonce = f"{handle.id}/{slot}/{attempt}"
        try:
            await handle.signal(Survivor.fill, args=[slot, nonce], rpc_timeout=timedelta(seconds=5))
        except RPCError:
            seen.refused += 1
            seen.doubtful.add(nonce)
            await asyncio.sleep(0.2)
            continue
        seen.signals.setdefault(handle.id, set()).add(nonce)
        return
    raise AssertionError(f"{handle.id}: no signal was accepted")


async def finished(handle: WorkflowHandle, seen: Acknowledged) -> list[str]:
    """Waits for the workflow's result, over as many connections as it takes."""
    while True:
        try:
            return await handle.result(rpc_timeout=timedelta(seconds=20))
        except RPCError:
            seen.refused += 1
            await asyncio.sleep(0.2)
