"""The workflows that run while the server is killed, and the client side that remembers what was acknowledged."""

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
SLOTS_WITH_CHILD = (1, 3)
TIMEOUT = timedelta(seconds=3)
ONE_ATTEMPT = RetryPolicy(maximum_attempts=1)
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


async def over(once: workflow.ActivityHandle) -> None:
    """Waits for an activity that may get lost."""
    try:
        await once
    except ActivityError:
        pass


@workflow.defn
class Helper:
    """A child: waits for a word of its parent, sends one back, and returns what it has heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @workflow.signal
    def hear(self, word: str) -> None:
        self.heard.append(word)

    @workflow.run
    async def run(self) -> list[str]:
        once = workflow.start_activity(at_most_once, start_to_close_timeout=TIMEOUT, retry_policy=ONE_ATTEMPT)
        await workflow.wait_condition(lambda: bool(self.heard))
        parent = workflow.info().parent
        assert parent
        handle = workflow.get_external_workflow_handle(parent.workflow_id, run_id=parent.run_id)
        await handle.signal(Survivor.hear, workflow.info().workflow_id)
        await over(once)
        return self.heard


@workflow.defn
class Survivor:
    """Needs a signal for every slot, with an activity, a timer and perhaps a child after each.

    Returns the signals' nonces in order.
    """

    def __init__(self) -> None:
        self.nonces: list[str] = []
        self.slots: set[int] = set()
        self.heard: list[str] = []

    @workflow.signal
    def hear(self, child_id: str) -> None:
        self.heard.append(child_id)

    @workflow.signal
    def fill(self, slot: int, nonce: str) -> None:
        self.nonces.append(nonce)
        self.slots.add(slot)

    @workflow.run
    async def run(self) -> list[str]:
        once = workflow.start_activity(at_most_once, start_to_close_timeout=TIMEOUT, retry_policy=ONE_ATTEMPT)
        for slot in range(SLOTS):
            await workflow.wait_condition(lambda: slot in self.slots)
            failures = workflow.random().randrange(3)
            await asyncio.gather(
                workflow.execute_activity(flaky, failures, start_to_close_timeout=TIMEOUT, retry_policy=RETRY),
                workflow.sleep(workflow.random().uniform(0.2, 1.5)),
                self.helped(slot),
            )
        await over(once)
        return self.nonces

    async def helped(self, slot: int) -> None:
        """Has a child in some slots, and waits until it has ended and its word is there."""
        if slot not in SLOTS_WITH_CHILD:
            return
        id = f"{workflow.info().workflow_id}-child-{slot}"
        child = await workflow.start_child_workflow(Helper.run, id=id, task_timeout=TIMEOUT)
        await child.signal(Helper.hear, id)
        await child
        await workflow.wait_condition(lambda: id in self.heard)


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
                task_timeout=TIMEOUT,
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
