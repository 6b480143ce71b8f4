"""Worker Deployments: which version of a worker gets which tasks, and how long a version is needed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.api.deployment.v1 import WorkerDeploymentVersion as Version
from temporalio.api.enums.v1 import WorkerDeploymentVersionStatus as Status
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentVersionRequest,
    SetWorkerDeploymentCurrentVersionRequest,
    SetWorkerDeploymentRampingVersionRequest,
)
from temporalio.client import Client
from temporalio.common import PinnedVersioningOverride, VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError
from temporalio.worker import Worker, WorkerDeploymentConfig

from history import verified
from running import unique, until

NAMESPACE = "default"


@activity.defn
async def build() -> str:
    """Says which build runs it: each worker has its own."""
    raise AssertionError("replaced by the worker")


def built(build_id: str) -> Any:
    """The activity of a build."""

    @activity.defn(name="build")
    async def of_build() -> str:
        return build_id

    return of_build


class Waits:
    """Waits for signals, and says at the end which builds have run it and its activities."""

    def __init__(self) -> None:
        self.received = 0
        self.builds: list[str] = []

    @workflow.signal
    def go_on(self) -> None:
        self.received += 1

    async def goes_on(self, turns: int) -> str:
        for turn in range(1, turns + 1):
            await workflow.wait_condition(lambda: self.received >= turn)
            self.builds.append(
                await workflow.execute_activity("build", start_to_close_timeout=timedelta(seconds=20), result_type=str)
            )
        return " ".join(self.builds)


@workflow.defn(name="Pinned", versioning_behavior=VersioningBehavior.PINNED)
class Pinned(Waits):
    @workflow.run
    async def run(self, turns: int) -> str:
        return await self.goes_on(turns)


@workflow.defn(name="Upgraded", versioning_behavior=VersioningBehavior.AUTO_UPGRADE)
class Upgraded(Waits):
    @workflow.run
    async def run(self, turns: int) -> str:
        return await self.goes_on(turns)


@workflow.defn(name="Parent", versioning_behavior=VersioningBehavior.PINNED)
class Parent:
    @workflow.run
    async def run(self, child: str) -> str:
        return await workflow.execute_child_workflow("Upgraded", 1, id=child, result_type=str)


@asynccontextmanager
async def workers(client: Client, name: str, queue: str, *build_ids: str) -> AsyncIterator[None]:
    """A worker of each build, known to the server."""
    running = [
        Worker(
            client,
            task_queue=queue,
            workflows=[Pinned, Upgraded, Parent],
            activities=[built(build_id)],
            deployment_config=WorkerDeploymentConfig(
                version=WorkerDeploymentVersion(deployment_name=name, build_id=build_id), use_worker_versioning=True
            ),
        )
        for build_id in build_ids
    ]
    tasks = [asyncio.create_task(worker.run()) for worker in running]
    try:
        for build_id in build_ids:
            await until(lambda build_id=build_id: polls_both(client, name, build_id), "both queues are polled")
        yield
    finally:
        await asyncio.gather(*[worker.shutdown() for worker in running])
        await asyncio.gather(*tasks)


async def described(client: Client, name: str, build_id: str) -> Any:
    version = Version(deployment_name=name, build_id=build_id)
    request = DescribeWorkerDeploymentVersionRequest(namespace=NAMESPACE, deployment_version=version)
    return (await client.workflow_service.describe_worker_deployment_version(request)).worker_deployment_version_info


async def polls_both(client: Client, name: str, build_id: str) -> bool:
    try:
        return len({queue.type for queue in (await described(client, name, build_id)).task_queue_infos}) >= 2
    except RPCError:
        return False


async def has_status(client: Client, name: str, build_id: str, status: Any) -> bool:
    return (await described(client, name, build_id)).status == status


async def make_current(client: Client, name: str, build_id: str) -> None:
    await client.workflow_service.set_worker_deployment_current_version(
        SetWorkerDeploymentCurrentVersionRequest(
            namespace=NAMESPACE, deployment_name=name, build_id=build_id, identity="test"
        )
    )


async def test_a_pinned_workflow_stays_and_an_upgraded_one_moves(client: Client) -> None:
    name, queue = unique("deployment"), unique("queue")
    async with workers(client, name, queue, "1", "2"):
        await make_current(client, name, "1")
        pinned = await client.start_workflow("Pinned", 2, id=unique("pinned"), task_queue=queue, result_type=str)
        upgraded = await client.start_workflow("Upgraded", 2, id=unique("upgraded"), task_queue=queue, result_type=str)
        for handle in pinned, upgraded:
            await handle.signal("go_on")
            await until(lambda handle=handle: has_done(handle, 1), "the first task is done")
        await make_current(client, name, "2")
        for handle in pinned, upgraded:
            await handle.signal("go_on")
        assert await pinned.result() == "1 1"
        assert await upgraded.result() == "1 2"
        await verified(pinned, Pinned)
        await verified(upgraded, Upgraded)


async def has_done(handle: Any, activities: int) -> bool:
    history = await handle.fetch_history()
    done = [event for event in history.events if event.HasField("activity_task_completed_event_attributes")]
    return len(done) >= activities


async def test_a_version_drains_once_nothing_is_pinned_to_it(client: Client) -> None:
    name, queue = unique("deployment"), unique("queue")
    async with workers(client, name, queue, "1", "2"):
        await make_current(client, name, "1")
        pinned = await client.start_workflow("Pinned", 1, id=unique("pinned"), task_queue=queue)
        await until(lambda: is_listed(client, name), "the deployment is listed")
        await make_current(client, name, "2")
        assert await has_status(client, name, "1", Status.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING)
        # Longer than it takes to be counted.
        await asyncio.sleep(15)
        assert await has_status(client, name, "1", Status.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING)
        await pinned.signal("go_on")
        await pinned.result()
        await until(lambda: has_status(client, name, "1", Status.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED), "the version is drained")


async def is_listed(client: Client, name: str) -> bool:
    query = f"TemporalWorkerDeploymentVersion = '{name}:1' AND TemporalWorkflowVersioningBehavior = 'Pinned'"
    return (await client.count_workflows(query)).count == 1


async def test_a_share_of_workflows_goes_to_the_ramping_version(client: Client) -> None:
    name, queue = unique("deployment"), unique("queue")
    async with workers(client, name, queue, "1", "2"):
        await make_current(client, name, "1")
        await client.workflow_service.set_worker_deployment_ramping_version(
            SetWorkerDeploymentRampingVersionRequest(
                namespace=NAMESPACE, deployment_name=name, build_id="2", percentage=50, identity="test"
            )
        )
        started = [
            await client.start_workflow(
                "Upgraded", 2, id=unique("ramped"), task_queue=queue, start_signal="go_on", result_type=str
            )
            for _ in range(24)
        ]
        for handle in started:
            await handle.signal("go_on")
        results = [await handle.result() for handle in started]
        # Each stays on its side, and both sides have some.
        assert set(results) == {"1 1", "2 2"}


async def test_an_override_and_a_parent_pin_a_workflow(client: Client) -> None:
    name, queue = unique("deployment"), unique("queue")
    async with workers(client, name, queue, "1", "2"):
        await make_current(client, name, "2")
        version = WorkerDeploymentVersion(deployment_name=name, build_id="1")
        overridden = await client.start_workflow(
            "Upgraded",
            1,
            id=unique("overridden"),
            task_queue=queue,
            start_signal="go_on",
            versioning_override=PinnedVersioningOverride(version),
            result_type=str,
        )
        assert await overridden.result() == "1"
        child = unique("child")
        parent = await client.start_workflow(
            "Parent",
            child,
            id=unique("parent"),
            task_queue=queue,
            versioning_override=PinnedVersioningOverride(version),
            result_type=str,
        )
        await until(lambda: exists(client, child), "the child is there")
        await client.get_workflow_handle(child).signal("go_on")
        assert await parent.result() == "1"


async def exists(client: Client, workflow_id: str) -> bool:
    try:
        await client.get_workflow_handle(workflow_id).describe()
        return True
    except RPCError:
        return False
