"""What the scripts' workers run."""

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

HOUR = timedelta(hours=1)


@activity.defn
async def echo(value: Any) -> Any:
    """Gives back what it is given."""
    return value


@activity.defn
async def fails(message: str) -> None:
    """Fails at each attempt."""
    raise ApplicationError(message, "detail", 2, type="Broken")


@activity.defn
async def left_open() -> None:
    """Ends when somebody else says so."""
    activity.heartbeat("half", 50)
    activity.raise_complete_async()


@workflow.defn(name="echo")
class Echo:
    """Gives back what it is given."""

    @workflow.run
    async def run(self, value: Any = None) -> Any:
        return value


@workflow.defn(name="fails")
class Fails:
    """Fails."""

    @workflow.run
    async def run(self, message: str = "broken") -> None:
        try:
            raise ValueError("why")
        except ValueError as cause:
            raise ApplicationError(message, {"code": 7}, type="Broken", non_retryable=True) from cause


@workflow.defn(name="waits")
class Waits:
    """Waits for the signal `go`, and gives back all that it was signalled."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.over = False

    @workflow.run
    async def run(self, _value: Any = None) -> list[Any]:
        workflow.set_current_details("waits for `go`")
        await workflow.wait_condition(lambda: self.over)
        return self.notes

    @workflow.signal(description="Ends the wait.")
    def go(self) -> None:
        self.over = True

    @workflow.signal
    def note(self, value: Any) -> None:
        self.notes.append(value)

    @workflow.update(description="Notes a value, and tells how many there are.")
    def change(self, value: Any) -> int:
        self.notes.append(value)
        return len(self.notes)

    @change.validator
    def check_change(self, value: Any) -> None:
        if value == "bad":
            raise ApplicationError("not that", type="Bad")

    @workflow.update
    def breaks(self) -> None:
        raise ApplicationError("cannot change", "detail", type="Broken")

    @workflow.update
    async def lasts(self) -> str:
        await workflow.wait_condition(lambda: bool(self.notes))
        return "over"

    @workflow.query(description="What was noted.")
    def noted(self) -> list[Any]:
        return self.notes

    @workflow.query
    def joined(self, separator: str, last: str) -> str:
        return separator.join([*map(str, self.notes), last])

    @workflow.query
    def broken(self) -> None:
        raise ApplicationError("cannot tell", "detail", type="Broken")


@workflow.defn(name="works")
class Works:
    """Runs an activity, or as many as there are names of them."""

    @workflow.run
    async def run(self, names: list[str]) -> list[Any]:
        running = [
            workflow.start_activity(
                name,
                *([] if name == "left_open" else [f"for {name}"]),
                activity_id=f"{name}-{number}",
                schedule_to_close_timeout=HOUR,
                heartbeat_timeout=HOUR,
                retry_policy=RetryPolicy(initial_interval=timedelta(minutes=50), maximum_attempts=3),
                summary=f"*{name}*",
            )
            for number, name in enumerate(names, 1)
        ]
        return list(await asyncio.gather(*running))


@workflow.defn(name="parent")
class Parent:
    """Has a child for each entry of `children`: its type and its input."""

    @workflow.run
    async def run(self, children: list[list[Any]]) -> list[Any]:
        own = workflow.info().workflow_id
        running = [
            await workflow.start_child_workflow(kind, value, id=f"{own}-{number}")
            for number, (kind, value) in enumerate(children, 1)
        ]
        return list(await asyncio.gather(*running))


@workflow.defn(name="chain")
class Chain:
    """Continues as new until none are left."""

    @workflow.run
    async def run(self, left: int) -> str:
        if left > 0:
            workflow.continue_as_new(left - 1)
        return "end of the chain"


@workflow.defn(name="mixed")
class Mixed:
    """What leaves an event of each kind that a lone workflow leaves."""

    @workflow.run
    async def run(self) -> str:
        workflow.patched("a-change")
        await workflow.execute_local_activity(echo, "here", start_to_close_timeout=HOUR)
        workflow.upsert_search_attributes([SearchAttributeKey.for_keyword("CliKeyword").value_set("mixed")])
        workflow.upsert_memo({"note": "upserted"})
        await workflow.sleep(0.05, summary="a short one")
        await workflow.execute_activity(echo, "there", start_to_close_timeout=HOUR, summary="an activity")
        return "mixed"


@workflow.defn(name="sleeps")
class Sleeps:
    """Sleeps for an hour."""

    @workflow.run
    async def run(self) -> None:
        await workflow.sleep(HOUR)


@workflow.defn(name="stuck")
class Stuck:
    """A workflow whose task fails whenever it is tried."""

    @workflow.run
    async def run(self) -> None:
        raise RuntimeError("a fault of the workflow's code")


def worker(client: Client, task_queue: str) -> Worker:
    """A worker of all of them."""
    return Worker(
        client,
        task_queue=task_queue,
        identity="worker",
        workflows=[Echo, Fails, Waits, Works, Parent, Chain, Mixed, Sleeps, Stuck],
        activities=[echo, fails, left_open],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
