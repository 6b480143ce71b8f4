"""Deleting workflows and namespaces."""

import asyncio

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.operatorservice.v1 import DeleteNamespaceRequest
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    DescribeNamespaceRequest,
    RegisterNamespaceRequest,
)
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from running import unique, until, worker


@workflow.defn
class Echo:
    """Returns what it is given."""

    @workflow.run
    async def run(self, what: str) -> str:
        return what


async def delete(client: Client, id: str, run_id: str = "") -> None:
    execution = WorkflowExecution(workflow_id=id, run_id=run_id)
    request = DeleteWorkflowExecutionRequest(namespace=client.namespace, workflow_execution=execution)
    await client.workflow_service.delete_workflow_execution(request)


async def is_gone(handle) -> bool:
    try:
        await handle.describe()
    except RPCError as error:
        assert error.status == RPCStatusCode.NOT_FOUND
        return True
    return False


async def count(client: Client, id: str) -> int:
    return (await client.count_workflows(f"WorkflowId = '{id}'")).count


async def test_a_closed_workflow_is_deleted_with_its_place_in_lists(client: Client):
    id = unique("closed")
    async with worker(client, [Echo]) as queue:
        handle = await client.start_workflow(Echo.run, "x", id=id, task_queue=queue)
        assert await handle.result() == "x"
        assert await count(client, id) == 1
        await delete(client, id)
        assert await is_gone(handle)
        assert await count(client, id) == 0
        with pytest.raises(RPCError) as raised:
            await delete(client, id)
        assert raised.value.status == RPCStatusCode.NOT_FOUND
        # The id is as free as if there had been nothing.
        assert await client.execute_workflow(Echo.run, "y", id=id, task_queue=queue) == "y"


async def test_whoever_waits_for_an_open_workflow_hears_of_its_end(client: Client):
    id, queue = unique("open"), unique("tq")
    handle = await client.start_workflow(Echo.run, "x", id=id, task_queue=queue)
    waiting = asyncio.create_task(handle.result())
    await asyncio.sleep(0.3)
    await delete(client, id)
    with pytest.raises(WorkflowFailureError) as raised:
        await waiting
    assert isinstance(raised.value.cause, TerminatedError)
    await until(lambda: is_gone(handle), "the workflow is deleted")
    assert await count(client, id) == 0


async def test_a_run_is_deleted_by_its_id(client: Client):
    id, queue = unique("runs"), unique("tq")
    first = await client.start_workflow(Echo.run, "x", id=id, task_queue=queue)
    await first.terminate()
    second = await client.start_workflow(Echo.run, "x", id=id, task_queue=queue)
    await delete(client, id, first.first_execution_run_id)
    assert await is_gone(client.get_workflow_handle(id, run_id=first.first_execution_run_id))
    assert not await is_gone(second)
    await second.terminate()


async def test_a_namespace_is_deleted_with_its_workflows(client: Client):
    name = unique("ns")
    register = RegisterNamespaceRequest(
        namespace=name, workflow_execution_retention_period=Duration(seconds=86_400)
    )
    await client.workflow_service.register_namespace(register)
    inside = await Client.connect(client.service_client.config.target_host, namespace=name)
    handles = [
        await inside.start_workflow(Echo.run, "x", id=unique("in"), task_queue=unique("tq")) for _ in range(20)
    ]
    await handles[0].terminate()
    described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=name))
    id = described.namespace_info.id
    deleted = await client.operator_service.delete_namespace(DeleteNamespaceRequest(namespace=name))
    assert deleted.deleted_namespace == f"{name}-deleted-{id[:5]}"
    with pytest.raises(RPCError) as raised:
        await handles[0].describe()
    assert (raised.value.status, raised.value.message) == (RPCStatusCode.NOT_FOUND, f"Namespace {name} is not found.")
    # Its name is free, and it is found by its id.
    await client.workflow_service.register_namespace(register)
    described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(id=id))
    assert described.namespace_info.name == deleted.deleted_namespace
    assert await count(inside, handles[1].id) == 0
    await client.operator_service.delete_namespace(DeleteNamespaceRequest(namespace=name))
    with pytest.raises(RPCError) as raised:
        await client.operator_service.delete_namespace(DeleteNamespaceRequest(namespace="temporal-system"))
    assert raised.value.status == RPCStatusCode.FAILED_PRECONDITION
