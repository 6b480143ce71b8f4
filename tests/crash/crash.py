"""Kills the server again and again while workflows run, and checks that nothing acknowledged was lost.

    EVERLOG_BIN=target/debug/everlog python tests/crash/crash.py [--kills 30] [--workflows 200] [--seed N]

Workflows are in flight with signals, activities (some with one attempt only), timers, children, and signals between those and their
parents. Afterwards every acknowledged start and signal is there once, every workflow has ended as it should, parents and children agree,
lists show them all, and no activity with one attempt has run twice.

Prints the seed, which decides the moments of the kills. The last line is `N passed, N failed`.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sdk" / "python"))

from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from history import check, kind, of_kind
from server import Server, connected
from workload import (
    SLOTS_WITH_CHILD,
    Acknowledged,
    Helper,
    Survivor,
    at_most_once,
    executions_at_most_once,
    flaky,
    lane,
)

FINISH_S_MAX = 120.0
REPLAYS = 50


async def main(options: argparse.Namespace, directory: Path) -> None:
    """One whole run; raises AssertionError if the server broke a promise."""
    dice = random.Random(options.seed)
    server = Server(directory / "data")
    await server.serve()
    client = await connected(server.address)
    queue = f"crash-{options.seed}"
    seen, stop = Acknowledged(), asyncio.Event()

    working = asyncio.create_task(works(client, queue))
    lanes = [asyncio.create_task(lane(client, number, queue, stop, seen)) for number in range(options.workflows)]
    try:
        await kills(server, dice, options.kills, seen, lanes)
        stop.set()
        await asyncio.wait_for(asyncio.gather(*lanes), FINISH_S_MAX)
    except asyncio.TimeoutError:
        raise AssertionError(f"workflows hang: {await unfinished(client, seen)}") from None
    finally:
        for task in [*lanes, working]:
            task.cancel()
        await asyncio.gather(*lanes, working, return_exceptions=True)

    await nothing_is_lost(client, seen)
    count = (await client.count_workflows(f"TaskQueue = '{queue}' AND ExecutionStatus = 'Completed'")).count
    expected = len(seen.runs) * (1 + len(SLOTS_WITH_CHILD))
    assert count == expected, f"lists show {count} workflows that completed, not {expected}"
    twice = [id for id, count in executions_at_most_once.items() if count > 1]
    assert not twice, f"activities with one attempt ran twice: {twice}"
    await server.stop()


async def works(client: Client, queue: str) -> None:
    """Keeps a worker running; one that gives up while the server is away is followed by the next."""
    while True:
        try:
            await Worker(
                client,
                task_queue=queue,
                workflows=[Survivor, Helper],
                activities=[flaky, at_most_once],
                workflow_runner=UnsandboxedWorkflowRunner(),
            ).run()
        except RuntimeError as error:
            print(f"  worker ended: {error}", flush=True)
            await asyncio.sleep(0.2)


async def kills(server: Server, dice: random.Random, count: int, seen: Acknowledged, lanes: list[asyncio.Task]) -> None:
    """Kills the server at random moments: most while it serves, some while it still recovers from the last kill."""
    for number in range(1, count + 1):
        up_s = dice.uniform(0.2, 4)
        await asyncio.sleep(up_s)
        await server.kill()
        while dice.random() < 0.25:
            await server.spawn()
            await asyncio.sleep(dice.uniform(0, 0.5))
            await server.kill()
        recovered_s = await server.serve()
        for task in lanes:
            if task.done():
                task.result()
        print(
            f"  kill {number:2} after {up_s:.1f} s, serving again after {recovered_s:.1f} s,"
            f" {len(seen.runs)} workflows and {sum(map(len, seen.signals.values()))} signals acknowledged",
            flush=True,
        )


async def unfinished(client: Client, seen: Acknowledged) -> list[str]:
    """Ids of workflows that still run, with the last event of each."""
    found = []
    for id in seen.runs:
        handle = client.get_workflow_handle(id)
        if (await handle.describe()).status == WorkflowExecutionStatus.RUNNING:
            last = (await handle.fetch_history()).events[-1]
            found.append(f"{id} (last event {last.event_id} {kind(last)})")
    return found


async def nothing_is_lost(client: Client, seen: Acknowledged) -> None:
    """Reads back every workflow that was acknowledged and checks it."""
    print(f"  checking {len(seen.runs)} workflows; {seen.refused} requests were refused on the way", flush=True)
    limit = asyncio.Semaphore(20)

    async def checked(number: int, id: str) -> int:
        async with limit:
            return await check_workflow(client, id, seen, replay=number < REPLAYS)

    events = await asyncio.gather(*(checked(number, id) for number, id in enumerate(seen.runs)))
    print(f"  {sum(events)} events are as they must be", flush=True)


async def check_workflow(client: Client, id: str, seen: Acknowledged, *, replay: bool) -> int:
    """Checks one workflow's status, history, signals, children and result; returns the number of events."""
    history = await completed(client, id, seen.runs[id], replay=replay)
    nonces = [arguments[1] for arguments in signals(history, "fill")]
    assert len(nonces) == len(set(nonces)), f"{id}: a signal is there twice: {nonces}"
    lost = seen.signals[id] - set(nonces)
    assert not lost, f"{id}: acknowledged signals are lost: {lost}"
    invented = set(nonces) - seen.signals[id] - seen.doubtful
    assert not invented, f"{id}: signals nobody sent: {invented}"
    result = await client.get_workflow_handle(id).result()
    assert result == nonces[: len(result)], f"{id}: the workflow saw {result}, its history has {nonces}"
    children = of_kind(history, "START_CHILD_WORKFLOW_EXECUTION_INITIATED")
    assert len(children) == len(SLOTS_WITH_CHILD), f"{id}: {len(children)} children"
    events = [await check_child(client, id, seen.runs[id], history, child, replay=replay) for child in children]
    return len(history) + sum(events)


async def check_child(
    client: Client, id: str, run_id: str, history: Sequence[HistoryEvent], initiated: HistoryEvent, *, replay: bool
) -> int:
    """Checks that a child and its parent tell the same; returns the child's number of events."""
    child_id = initiated.start_child_workflow_execution_initiated_event_attributes.workflow_id
    told = [
        event.child_workflow_execution_completed_event_attributes
        for event in of_kind(history, "CHILD_WORKFLOW_EXECUTION_COMPLETED")
        if event.child_workflow_execution_completed_event_attributes.initiated_event_id == initiated.event_id
    ]
    assert len(told) == 1, f"{id} has heard {len(told)} times that {child_id} completed"
    of_child = await completed(client, child_id, told[0].workflow_execution.run_id, replay=replay)
    started = of_child[0].workflow_execution_started_event_attributes
    parent = (started.parent_workflow_execution.workflow_id, started.parent_workflow_execution.run_id)
    assert parent == (id, run_id), f"{child_id} is a child of {parent}, not of {id} {run_id}"
    assert started.parent_initiated_event_id == initiated.event_id, f"{child_id}: another event began it"
    result = of_child[-1].workflow_execution_completed_event_attributes.result
    assert result == told[0].result, f"{child_id} returned {result}, {id} has heard {told[0].result}"
    # Each has heard the other once, and knows that it was heard.
    assert signals(of_child, "hear") == [[child_id]], f"{child_id} has heard {signals(of_child, 'hear')}"
    heard = [arguments for arguments in signals(history, "hear") if arguments == [child_id]]
    assert len(heard) == 1, f"{id} has heard {len(heard)} times from {child_id}"
    for sender, events, count in ((id, history, len(SLOTS_WITH_CHILD)), (child_id, of_child, 1)):
        for what in ("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED", "EXTERNAL_WORKFLOW_EXECUTION_SIGNALED"):
            assert len(of_kind(events, what)) == count, f"{sender}: {len(of_kind(events, what))} of {what}"
    return len(of_child)


async def completed(client: Client, id: str, run_id: str, *, replay: bool) -> Sequence[HistoryEvent]:
    """Checks that a workflow's only run has completed, and its history, which is returned."""
    handle = client.get_workflow_handle(id)
    description = await handle.describe()
    assert description.run_id == run_id, f"{id}: run {description.run_id} is not the acknowledged {run_id}"
    assert description.status == WorkflowExecutionStatus.COMPLETED, f"{id} is {description.status}"
    history = await handle.fetch_history()
    try:
        check(history.events)
    except AssertionError as error:
        raise AssertionError(f"{id}: {error}") from None
    assert description.history_length == len(history.events), f"{id}: described with another history length"
    if replay:
        replayer = Replayer(workflows=[Survivor, Helper], workflow_runner=UnsandboxedWorkflowRunner())
        await replayer.replay_workflow(history)
    return history.events


def signals(history: Sequence[HistoryEvent], name: str) -> list[list]:
    """The arguments of every signal of a name, in order."""
    attributes = [
        event.workflow_execution_signaled_event_attributes
        for event in of_kind(history, "WORKFLOW_EXECUTION_SIGNALED")
    ]
    return [[json.loads(payload.data) for payload in one.input.payloads] for one in attributes if one.signal_name == name]


def parsed() -> argparse.Namespace:
    """The command line; without a seed, one that differs from run to run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--workflows", type=int, default=200, help="how many run at a time")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    return parser.parse_args()


if __name__ == "__main__":
    options = parsed()
    # Activities fail and connections break on purpose; the SDK would report each of them.
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)
    directory = Path(tempfile.mkdtemp(prefix="everlog-crash-"))
    (directory / "data").mkdir()
    began = time.monotonic()
    print(
        f"crash test: seed {options.seed}, {options.kills} kills, {options.workflows} workflows at a time", flush=True
    )
    try:
        asyncio.run(main(options, directory))
    except Exception as error:
        traceback.print_exc()
        print(f"crash test failed after {time.monotonic() - began:.0f} s with --seed {options.seed}: {error}")
        print(f"the server's data and log are kept in {directory}")
        print("0 passed, 1 failed")
        sys.exit(1)
    shutil.rmtree(directory)
    print(f"crash test passed in {time.monotonic() - began:.0f} s")
    print("1 passed, 0 failed")
