"""Listing and counting workflows."""

from datetime import datetime, timedelta, timezone

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from running import unique, until, worker


@workflow.defn
class Listed:
    @workflow.run
    async def run(self, wait: bool) -> None:
        await workflow.wait_condition(lambda: not wait)


@workflow.defn
class AlsoListed:
    @workflow.run
    async def run(self) -> None:
        pass


async def ids(client: Client, query: str, page_size: int = 1000) -> list[str]:
    return [execution.id async for execution in client.list_workflows(query, page_size=page_size)]


async def lists(client: Client, query: str, wanted: list[str]) -> None:
    """Waits until `query` lists exactly `wanted`, in whatever order."""

    async def listed() -> bool:
        return sorted(await ids(client, query)) == sorted(wanted)

    await until(listed, f"{query} lists {wanted}")


async def test_list_and_count(client: Client):
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    async with worker(client, [Listed, AlsoListed]) as queue:
        running = [
            await client.start_workflow(Listed.run, True, id=unique("listed"), task_queue=queue) for _ in range(3)
        ]
        done = [await client.start_workflow(Listed.run, False, id=unique("listed"), task_queue=queue) for _ in range(2)]
        other = await client.start_workflow(AlsoListed.run, id=unique("also"), task_queue=queue)
        for handle in [*done, other]:
            await handle.result()
        await running[0].terminate()

        mine = f"TaskQueue = '{queue}'"
        all_ids = [handle.id for handle in [*running, *done, other]]
        still_running = [handle.id for handle in running[1:]]
        await lists(client, mine, all_ids)
        await lists(client, f"{mine} AND ExecutionStatus = 'Running'", still_running)
        await lists(client, f"{mine} AND ExecutionStatus = 'Terminated'", [running[0].id])
        await lists(
            client,
            f"{mine} AND ExecutionStatus != 'Running' AND WorkflowType = 'Listed'",
            [running[0].id, *(h.id for h in done)],
        )
        await lists(client, f"{mine} AND WorkflowType = 'AlsoListed'", [other.id])
        await lists(client, f"WorkflowId = '{done[0].id}'", [done[0].id])
        await lists(client, f"WorkflowId IN ('{done[0].id}', '{other.id}')", [done[0].id, other.id])
        await lists(client, f"RunId = '{other.result_run_id}'", [other.id])
        await lists(client, f"{mine} AND StartTime > '{before.isoformat()}'", all_ids)
        await lists(client, f"{mine} AND StartTime < '{before.isoformat()}'", [])
        await lists(client, f"{mine} AND CloseTime IS NULL", still_running)
        await lists(
            client,
            f"{mine} AND (WorkflowType = 'AlsoListed' OR ExecutionStatus = 'Terminated')",
            [other.id, running[0].id],
        )
        await lists(client, f"WorkflowId STARTS_WITH '{other.id[:-2]}'", [other.id])

        assert (await client.count_workflows(mine)).count == 6
        groups = (await client.count_workflows(f"{mine} GROUP BY ExecutionStatus")).groups
        assert {group.group_values[0]: group.count for group in groups} == {
            "Running": 2,
            "Terminated": 1,
            "Completed": 3,
        }
        for handle in running[1:]:
            await handle.terminate()


async def test_pages(client: Client):
    queue = unique("tq")
    handles = [await client.start_workflow(Listed.run, True, id=unique("paged"), task_queue=queue) for _ in range(12)]
    query = f"TaskQueue = '{queue}'"
    await lists(client, query, [handle.id for handle in handles])
    # Newest first, whatever the size of the pages.
    newest_first = [handle.id for handle in reversed(handles)]
    assert await ids(client, query, page_size=5) == newest_first
    assert await ids(client, query, page_size=1000) == newest_first
    for handle in handles:
        await handle.terminate()


async def test_listed_execution(client: Client):
    handle = await client.start_workflow(
        Listed.run, True, id=unique("entry"), task_queue=unique("tq"), memo={"note": "for the list"}
    )
    await lists(client, f"WorkflowId = '{handle.id}'", [handle.id])
    (execution,) = [entry async for entry in client.list_workflows(f"WorkflowId = '{handle.id}'")]
    assert execution.run_id == handle.first_execution_run_id
    assert execution.status == WorkflowExecutionStatus.RUNNING
    assert execution.workflow_type == "Listed"
    assert execution.start_time is not None and execution.close_time is None
    assert await execution.memo() == {"note": "for the list"}
    await handle.terminate()


@pytest.mark.parametrize("query", ["WorkflowId =", "NoSuchAttribute = 1", "ExecutionStatus = 'Sleeping'"])
async def test_bad_query(client: Client, query: str):
    with pytest.raises(RPCError) as raised:
        await ids(client, query)
    assert raised.value.status == RPCStatusCode.INVALID_ARGUMENT
