"""Workers that choose by themselves how many polls they have open: more under a backlog, fewer when nothing comes."""

import asyncio
import os
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, PollActivityTaskQueueRequest
from temporalio.client import Client
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig
from temporalio.worker import PollerBehaviorAutoscaling

from running import unique, until, worker

TASKS = 40


@activity.defn
async def short() -> None:
    await asyncio.sleep(0.05)


@workflow.defn
class Many:
    @workflow.run
    async def run(self, queue: str, count: int) -> None:
        options = {"task_queue": queue, "start_to_close_timeout": timedelta(seconds=30)}
        await asyncio.gather(*(workflow.start_activity(short, **options) for _ in range(count)))


async def waiting(client: Client, queue: str, count: int):
    """A workflow of which `count` activities wait for a worker."""
    handle = await client.start_workflow(Many.run, args=[queue, count], id=unique("many"), task_queue=f"{queue}-wf")

    async def all_wait() -> bool:
        return len((await handle.describe()).raw_description.pending_activities) == count

    await until(all_wait, "all activities wait")
    return handle


async def poll(client: Client, queue: str):
    request = PollActivityTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=queue), identity="by-hand"
    )
    return await client.workflow_service.poll_activity_task_queue(request, timeout=timedelta(seconds=20))


async def test_a_namespace_says_that_hints_are_given(client: Client):
    described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    assert described.namespace_info.capabilities.poller_autoscaling


async def test_polls_are_answered_with_hints(client: Client):
    queue = unique("hints")
    async with worker(client, [Many], task_queue=f"{queue}-wf"):
        await waiting(client, queue, 5)
        await asyncio.sleep(0.3)
        hints = [(await poll(client, queue)).poller_scaling_decision.poll_request_delta_suggestion for _ in range(5)]
        assert hints[:4] == [1] * 4, hints
        idle = asyncio.create_task(poll(client, queue))
        await asyncio.sleep(1.5)
        await client.start_workflow(Many.run, args=[queue, 1], id=unique("more"), task_queue=f"{queue}-wf")
        assert (await idle).poller_scaling_decision.poll_request_delta_suggestion == -1


async def test_a_worker_scales_up_under_a_backlog_and_down_when_idle():
    metrics = MetricBuffer(10_000)
    runtime = Runtime(telemetry=TelemetryConfig(metrics=metrics))
    client = await Client.connect(os.environ["EVERLOG_ADDRESS"], runtime=runtime)
    queue = unique("scaling")
    counts: list[int] = []

    def open_polls() -> list[int]:
        """How many polls for activities the worker has had open so far."""
        for update in metrics.retrieve_updates():
            told = update.attributes
            if update.metric.name.endswith("num_pollers") and told.get("poller_type") == "activity_task":
                counts.append(int(update.value))
        return counts

    behavior = PollerBehaviorAutoscaling(minimum=1, maximum=20, initial=1)
    async with worker(client, [Many], task_queue=f"{queue}-wf"):
        handle = await waiting(client, queue, TASKS)
        async with worker(client, [], [short], task_queue=queue, activity_task_poller_behavior=behavior):
            await handle.result()
            most = max(open_polls())
            assert most >= 4, counts
            # Each poll that has waited for a second for its task is one too many.
            for _ in range(most):
                await asyncio.sleep(1.1)
                more = await client.start_workflow(
                    Many.run, args=[queue, 2], id=unique("more"), task_queue=f"{queue}-wf"
                )
                await more.result()
                if open_polls()[-1] <= most // 2:
                    break
            assert counts[-1] <= most // 2, counts
