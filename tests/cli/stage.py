"""Plays scenarios on a server: makes their state, runs their commands, and writes down what these print."""

import asyncio
import contextlib
import json
import os
import re
import shlex
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Awaitable, Callable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.wrappers_pb2 import DoubleValue
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue, TaskQueueMetadata
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    ListBatchOperationsRequest,
    PollActivityTaskQueueRequest,
    PollWorkflowTaskQueueRequest,
    RegisterNamespaceRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

from mask import Mask
from scripts import Scenario
from worker import worker

WAIT_S_MAX = 30.0
COMMAND_S_MAX = 60.0
POLL_TIME = timedelta(seconds=60)

# What scenarios may use besides the attributes that every server has.
SEARCH_ATTRIBUTES = {
    "CliKeyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "CliInt": IndexedValueType.INDEXED_VALUE_TYPE_INT,
    "CliText": IndexedValueType.INDEXED_VALUE_TYPE_TEXT,
}


class Failed(Exception):
    """A scenario's state did not come about."""


@dataclass
class Shown:
    """What a command has printed, masked."""

    command: str
    out: str
    error: str
    status: int


async def prepare(client: Client) -> None:
    """Registers the search attributes, and waits until they can be used."""
    with contextlib.suppress(RPCError):  # they may be there already
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace="default", search_attributes=SEARCH_ATTRIBUTES)
        )
    await until(lambda: counted(client, " AND ".join(f"{name} IS NULL" for name in SEARCH_ATTRIBUTES)), "search attributes")


async def counted(client: Client, query: str) -> int | None:
    """How many workflows meet `query`, if the server takes it."""
    try:
        return (await client.count_workflows(query)).count
    except RPCError:
        return None


async def until(ask: Callable[[], Awaitable[Any]], what: str, is_right: Callable[[Any], bool] = lambda it: it is not None) -> Any:
    """Asks until the answer is right, and gives it."""
    deadline = time.monotonic() + WAIT_S_MAX
    while not is_right(answer := await ask()):
        if time.monotonic() > deadline:
            raise Failed(f"not within {WAIT_S_MAX} s: {what}; last seen: {answer}")
        await asyncio.sleep(0.05)
    return answer


class Stage:
    """A scenario that is being played."""

    def __init__(self, scenario: Scenario, client: Client, address: str, temporal: str, nonce: str, home: Path) -> None:
        self.scenario = scenario
        self.client = client
        self.address = address
        self.temporal = temporal
        self.home = home
        own = f"{scenario.area}-{scenario.name}-{nonce}".replace("_", "-")
        self.names = {"{id}": f"wf-{own}", "{queue}": f"tq-{own}", "{namespace}": f"ns-{own}"}
        self.mask = Mask({name: stands for stands, name in self.names.items()})
        self.stopped: list[asyncio.Event] = []
        self.workers: list[asyncio.Task[None]] = []
        self.polls: list[asyncio.Task[Any]] = []
        self.shown: list[Shown] = []
        self.job = ""

    async def play(self) -> list[Shown]:
        """All steps. What was shown before one failed stays in `shown`."""
        verbs = {
            "worker": self.worker,
            "poll": self.poll,
            "await": self.await_event,
            "listed": self.listed,
            "described": self.described,
            "namespace": self.namespace,
            "ended": self.ended,
            "sleep": self.sleep,
            "+": self.quiet,
            "$": self.show,
        }
        try:
            for verb, rest in self.scenario.steps:
                try:
                    await verbs[verb](rest)
                except (Failed, RPCError) as failure:
                    raise Failed(f"{self.scenario.title}: {verb} {rest}: {failure}") from failure
        finally:
            await self.worker("stop")
        return self.shown

    async def fill(self, text: str) -> str:
        """`text` with the scenario's names in it."""
        for name, value in self.names.items():
            text = text.replace(name, value)
        text = text.replace("{job}", self.job)
        for match in re.finditer(r"\{run:([^}]+)\}", text):
            description = await self.client.get_workflow_handle(match[1]).describe()
            text = text.replace(match[0], description.run_id)
        return text

    async def worker(self, what: str) -> None:
        """Starts a worker that runs until it is told to stop, or stops all."""
        if what == "stop":
            for event in self.stopped:
                event.set()
            await asyncio.gather(*self.workers)
            self.stopped.clear()
            self.workers.clear()
            await self.hang_up()
            return
        queue = await self.fill(what or "{queue}")
        stop = asyncio.Event()

        async def work() -> None:
            async with worker(self.client, queue):
                await stop.wait()

        self.stopped.append(stop)
        self.workers.append(asyncio.create_task(work()))

    async def poll(self, kind: str) -> None:
        """Asks for a task until workers are stopped."""
        queue = TaskQueue(name=self.names["{queue}"])
        service = self.client.workflow_service
        if kind == "workflow":
            request = PollWorkflowTaskQueueRequest(namespace="default", task_queue=queue, identity="poller")
            polled = service.poll_workflow_task_queue(request, timeout=POLL_TIME)
        else:
            metadata = TaskQueueMetadata(max_tasks_per_second=DoubleValue(value=float(kind.partition(" ")[2] or 100_000)))
            request = PollActivityTaskQueueRequest(namespace="default", task_queue=queue, identity="poller", task_queue_metadata=metadata)
            polled = service.poll_activity_task_queue(request, timeout=POLL_TIME)
        self.polls.append(asyncio.create_task(polled))

    async def hang_up(self) -> None:
        """Ends the polls."""
        for poll in self.polls:
            poll.cancel()
        await asyncio.gather(*self.polls, return_exceptions=True)
        self.polls.clear()

    async def await_event(self, what: str) -> None:
        """Waits for an event of a workflow's history."""
        workflow_id, event, *times = (await self.fill(what)).split()
        wanted = int(times[0]) if times else 1

        async def count() -> int:
            history = await self.client.get_workflow_handle(workflow_id).fetch_history()
            named = [MessageToDict(entry)["eventType"] for entry in history.events]
            return sum(name.replace("_", "").lower() == f"eventtype{event}".lower() for name in named)

        await until(count, f"{wanted} {event}", lambda seen: seen >= wanted)

    async def listed(self, what: str) -> None:
        """Waits until lists show as many workflows."""
        wanted, _, query = (await self.fill(what)).partition(" ")
        await until(lambda: counted(self.client, query), f"{wanted} workflows are listed", lambda seen: seen == int(wanted))

    async def described(self, what: str) -> None:
        """Waits until a text is in a description."""
        workflow_id, _, text = (await self.fill(what)).partition(" ")

        async def describe() -> str:
            description = await self.client.get_workflow_handle(workflow_id).describe()
            return json.dumps(MessageToDict(description.raw_description))

        await until(describe, f"{text} in the description", lambda seen: text in seen)

    async def namespace(self, _what: str) -> None:
        """Registers the scenario's namespace."""
        name, service = self.names["{namespace}"], self.client.workflow_service
        retention = Duration(seconds=86400)
        await service.register_namespace(RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=retention))

        async def usable() -> bool:
            run = await self.run(f"workflow list -n {name}")
            return run.status == 0

        await until(usable, "the namespace can be used", bool)
        await service.describe_namespace(DescribeNamespaceRequest(namespace=name))

    async def ended(self, _what: str) -> None:
        """Waits for the end of the last batch job."""
        request = ListBatchOperationsRequest(namespace="default")

        async def has_ended() -> bool:
            listed = await self.client.workflow_service.list_batch_operations(request)
            return any(job.job_id == self.job and job.HasField("close_time") for job in listed.operation_info)

        await until(has_ended, "the batch job has ended", bool)

    async def sleep(self, seconds: str) -> None:
        """Lets time pass."""
        await asyncio.sleep(float(seconds))

    async def quiet(self, command: str) -> None:
        """Runs a command for what it does."""
        run = await self.run(command)
        if run.status != 0:
            raise Failed(f"status {run.status}: {run.error}")

    async def show(self, command: str) -> None:
        """Runs a command for what it prints."""
        self.shown.append(await self.run(command))

    async def run(self, command: str) -> Shown:
        """Runs `temporal` in an environment that says nothing but where the server is."""
        environment = {"HOME": str(self.home), "TZ": "UTC", "PATH": os.environ["PATH"], "TEMPORAL_ADDRESS": self.address}
        typed, _, answer = (await self.fill(command)).partition(" <<< ")
        arguments = shlex.split(typed)
        process = await asyncio.create_subprocess_exec(
            self.temporal,
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, error = await asyncio.wait_for(process.communicate(answer.encode()), COMMAND_S_MAX)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()
            raise Failed(f"not over after {COMMAND_S_MAX} s: temporal {command}") from None
        if started := re.search(r'(?:Started batch for job ID: |"batchJobId"\s*:\s*")([0-9a-f-]{36})', out.decode()):
            self.job = started[1]
        is_json = out.lstrip()[:1] in (b"{", b"[")
        masked = (self.mask.json if is_json else self.mask.table)(out.decode())
        return Shown(command, masked.rstrip("\n"), self.mask.table(error.decode()), process.returncode or 0)
