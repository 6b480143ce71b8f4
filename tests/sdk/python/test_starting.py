"""Starting workflows: id policies, duplicates, memo, descriptions, and the server's own facts."""

import asyncio
from datetime import timedelta

import pytest
from temporalio import workflow
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, GetClusterInfoRequest, GetSystemInfoRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from history import events
from running import unique, worker


@workflow.defn
class UntilToldHow:
    """Runs until told to complete or to fail."""

    def __init__(self) -> None:
        self.told: str | None = None

    @workflow.signal
    def end(self, how: str) -> None:
        self.told = how

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.told is not None)
        if self.told == "fail":
            raise ApplicationError("told to")
        return workflow.info().run_id


async def start(client: Client, id: str, queue: str, **options):
    return await client.start_workflow(UntilToldHow.run, id=id, task_queue=queue, **options)


async def closed(client: Client, id: str, queue: str, how: str):
    handle = await start(client, id, queue)
    await handle.signal(UntilToldHow.end, how)
    try:
        await handle.result()
    except Exception:
        assert how == "fail"
    return handle


async def test_running_workflow_is_not_started_twice(client: Client):
    id, queue = unique("twice"), unique("tq")
    first = await start(client, id, queue)
    with pytest.raises(WorkflowAlreadyStartedError) as raised:
        await start(client, id, queue)
    assert (raised.value.workflow_id, raised.value.run_id) == (id, first.first_execution_run_id)
    await first.terminate()


async def test_one_of_many_concurrent_starts_wins(client: Client):
    id, queue = unique("race"), unique("tq")
    outcomes = await asyncio.gather(*(start(client, id, queue) for _ in range(20)), return_exceptions=True)
    (won,) = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, WorkflowAlreadyStartedError)]
    assert len(lost) == 19
    assert {error.run_id for error in lost} == {won.first_execution_run_id}
    await won.terminate()


async def test_conflict_policy_use_existing(client: Client):
    id, queue = unique("existing"), unique("tq")
    first = await start(client, id, queue)
    second = await start(client, id, queue, id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING)
    assert second.first_execution_run_id == first.first_execution_run_id
    await first.terminate()


async def test_conflict_policy_terminate_existing(client: Client):
    id, queue = unique("replaced"), unique("tq")
    first = await start(client, id, queue)
    second = await start(client, id, queue, id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING)
    assert second.first_execution_run_id != first.first_execution_run_id
    described = await client.get_workflow_handle(id, run_id=first.first_execution_run_id).describe()
    assert described.status == WorkflowExecutionStatus.TERMINATED
    assert (await client.get_workflow_handle(id).describe()).run_id == second.first_execution_run_id
    await second.terminate()


@pytest.mark.parametrize(
    "policy, after_completion, after_failure",
    [
        (WorkflowIDReusePolicy.ALLOW_DUPLICATE, True, True),
        (WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, False, True),
        (WorkflowIDReusePolicy.REJECT_DUPLICATE, False, False),
    ],
)
async def test_reuse_policy(client: Client, policy: WorkflowIDReusePolicy, after_completion: bool, after_failure: bool):
    async with worker(client, [UntilToldHow]) as queue:
        for how, allowed in [("complete", after_completion), ("fail", after_failure)]:
            id = unique("reused")
            first = await closed(client, id, queue, how)
            if allowed:
                second = await start(client, id, queue, id_reuse_policy=policy)
                assert second.first_execution_run_id != first.first_execution_run_id
                await second.terminate()
            else:
                with pytest.raises(WorkflowAlreadyStartedError) as raised:
                    await start(client, id, queue, id_reuse_policy=policy)
                assert raised.value.run_id == first.first_execution_run_id


async def test_description_of_a_running_workflow(client: Client):
    id = unique("described")
    async with worker(client, [UntilToldHow]) as queue:
        handle = await start(
            client,
            id,
            queue,
            memo={"color": "green", "sizes": [1, 2]},
            static_summary="a summary",
            run_timeout=timedelta(seconds=100),
            execution_timeout=timedelta(seconds=200),
            task_timeout=timedelta(seconds=7),
        )
        description = await handle.describe()
        assert (description.id, description.run_id) == (id, handle.first_execution_run_id)
        assert description.status == WorkflowExecutionStatus.RUNNING
        assert (description.workflow_type, description.task_queue) == ("UntilToldHow", queue)
        assert description.close_time is None and description.start_time is not None
        assert await description.memo() == {"color": "green", "sizes": [1, 2]}
        assert await description.static_summary() == "a summary"
        config = description.raw_description.execution_config
        assert config.workflow_run_timeout.seconds == 100
        assert config.workflow_execution_timeout.seconds == 200
        assert config.default_workflow_task_timeout.seconds == 7

        await handle.signal(UntilToldHow.end, "complete")
        assert await handle.result() == handle.first_execution_run_id
    description = await handle.describe()
    assert description.status == WorkflowExecutionStatus.COMPLETED
    assert description.close_time >= description.start_time
    assert description.history_length == len(await events(handle))


async def test_started_event_carries_what_was_asked_for(client: Client):
    handle = await start(client, unique("started"), unique("tq"), memo={"k": 1}, run_timeout=timedelta(seconds=99))
    attributes = (await events(handle))[0].workflow_execution_started_event_attributes
    assert attributes.workflow_type.name == "UntilToldHow"
    assert attributes.memo.fields["k"].data == b"1"
    assert attributes.workflow_run_timeout.seconds == 99
    assert attributes.workflow_task_timeout.seconds == 10
    assert (attributes.attempt, attributes.identity) == (1, client.identity)
    assert attributes.original_execution_run_id == attributes.first_execution_run_id == handle.first_execution_run_id
    await handle.terminate()


async def test_eager_start(client: Client):
    async with worker(client, [UntilToldHow]) as queue:
        handle = await start(client, unique("eager"), queue, request_eager_start=True)
        await handle.signal(UntilToldHow.end, "complete")
        assert await handle.result() == handle.first_execution_run_id


async def test_unknown_workflow(client: Client):
    unknown = client.get_workflow_handle(unique("unknown"))
    for call in [unknown.describe, unknown.terminate, unknown.cancel, unknown.fetch_history]:
        with pytest.raises(RPCError) as raised:
            await call()
        assert raised.value.status == RPCStatusCode.NOT_FOUND


async def test_unknown_namespace(client: Client):
    nowhere = Client(client.service_client, namespace=unique("nowhere"))
    with pytest.raises(RPCError) as raised:
        await start(nowhere, unique("id"), unique("tq"))
    assert raised.value.status == RPCStatusCode.NOT_FOUND
    assert nowhere.namespace in raised.value.message


async def test_bad_requests(client: Client):
    for options in [dict(id="", queue="tq"), dict(id="id", queue=""), dict(id="x" * 1001, queue="tq")]:
        with pytest.raises(RPCError) as raised:
            await start(client, **options)
        assert raised.value.status == RPCStatusCode.INVALID_ARGUMENT


async def test_server_describes_itself(client: Client):
    assert await client.service_client.check_health()
    service = client.workflow_service
    system = await service.get_system_info(GetSystemInfoRequest())
    assert system.server_version
    assert system.capabilities.internal_error_differentiation
    assert system.capabilities.encoded_failure_attributes
    assert system.capabilities.sdk_metadata
    assert (await service.get_cluster_info(GetClusterInfoRequest())).server_version == system.server_version
    namespace = await service.describe_namespace(DescribeNamespaceRequest(namespace="default"))
    assert namespace.namespace_info.name == "default" and namespace.namespace_info.id
