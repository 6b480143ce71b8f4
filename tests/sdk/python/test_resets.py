"""Resets: a workflow goes on from an earlier workflow task, with what others have asked of it since."""

import asyncio
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import ResetReapplyExcludeType
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest, ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import TerminatedError
from temporalio.service import RPCError

from history import events, kinds, of_kind, verified
from running import until, unique, worker

attempts: dict[str, int] = {}


@activity.defn
async def counted(name: str) -> int:
    attempts[name] = attempts.get(name, 0) + 1
    return attempts[name]


@workflow.defn
class Child:
    def __init__(self) -> None:
        self.told: str | None = None

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.told is not None)
        return self.told or ""

    @workflow.signal
    def tell(self, what: str) -> None:
        self.told = what


@workflow.defn
class Notes:
    """Runs an activity, takes notes until it is told to end, and says what it has noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.ends = False

    @workflow.run
    async def run(self, name: str, child: str | None = None) -> list[str]:
        started = await workflow.start_child_workflow(Child.run, id=child) if child else None
        first = await workflow.execute_activity(counted, name, start_to_close_timeout=timedelta(seconds=10))
        await workflow.sleep(0.1)
        second = await workflow.execute_activity(counted, name, start_to_close_timeout=timedelta(seconds=10))
        await workflow.wait_condition(lambda: self.ends)
        told = [await started] if started else []
        return [f"activities {first} {second}", *self.notes, *told]

    @workflow.signal
    def note(self, text: str) -> None:
        self.notes.append(text)

    @workflow.signal
    def end(self) -> None:
        self.ends = True

    @workflow.update
    def noted(self, text: str) -> int:
        self.notes.append(text)
        return len(self.notes)


async def reset(client: Client, handle: WorkflowHandle, event_id: int, **fields) -> WorkflowHandle:
    """The run that goes on from before the event."""
    request = ResetWorkflowExecutionRequest(
        namespace=client.namespace,
        workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=handle.first_execution_run_id or ""),
        reason="to try again",
        workflow_task_finish_event_id=event_id,
        request_id=fields.pop("request_id", unique("reset")),
        **fields,
    )
    answer = await client.workflow_service.reset_workflow_execution(request)
    return client.get_workflow_handle(handle.id, run_id=answer.run_id)


async def idle(handle: WorkflowHandle, activities: int = 2) -> None:
    """Waits until both activities have run and no workflow task is pending."""

    async def is_idle() -> bool:
        told = await events(handle)
        done = len(of_kind(told, "ACTIVITY_TASK_COMPLETED")) == activities
        return done and kinds(told)[-1] in ("WORKFLOW_TASK_COMPLETED", "WORKFLOW_EXECUTION_UPDATE_COMPLETED")

    await until(is_idle, "the workflow waits")


async def task_ends(handle: WorkflowHandle) -> list[int]:
    return [event.event_id for event in of_kind(await events(handle), "WORKFLOW_TASK_COMPLETED")]


async def started(client: Client, queue: str, child: str | None = None) -> WorkflowHandle:
    arguments = [unique("name"), child]
    return await client.start_workflow(Notes.run, args=arguments, id=unique("reset"), task_queue=queue)


async def test_a_run_goes_on_from_an_earlier_task_with_signals_and_updates(client: Client):
    async with worker(client, [Notes], activities=[counted]) as queue:
        old = await started(client, queue)
        await idle(old)
        await old.signal(Notes.note, "one")
        assert await old.execute_update(Notes.noted, "two") == 2
        await old.signal(Notes.note, "three")
        await idle(old)
        [_, second, *_] = await task_ends(old)
        new = await reset(client, old, second)
        await idle(new)
        await new.signal(Notes.end)
        # The first activity is history; the second is done again.
        assert await new.result() == ["activities 1 3", "one", "two", "three"]
        with pytest.raises(WorkflowFailureError) as failed:
            await client.get_workflow_handle(old.id, run_id=old.first_execution_run_id).result(follow_runs=False)
        assert isinstance(failed.value.cause, TerminatedError)
        assert failed.value.cause.message == "to try again"
        history = await verified(new, Notes)
        assert "WORKFLOW_EXECUTION_UPDATE_ADMITTED" in kinds(history)


async def test_what_is_excluded_is_left_out(client: Client):
    async with worker(client, [Notes], activities=[counted]) as queue:
        old = await started(client, queue)
        await old.signal(Notes.note, "one")
        await idle(old)
        assert await old.execute_update(Notes.noted, "two") == 2
        await idle(old)
        excluded = [ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE]
        new = await reset(client, old, (await task_ends(old))[-2], reset_reapply_exclude_types=excluded)
        await new.signal(Notes.end)
        assert (await new.result())[1:] == ["one"]


async def test_a_closed_run_goes_on_and_again(client: Client):
    async with worker(client, [Notes], activities=[counted]) as queue:
        old = await started(client, queue)
        await idle(old)
        await old.signal(Notes.note, "one")
        await old.signal(Notes.end)
        assert (await old.result())[1:] == ["one"]
        [first, *_] = await task_ends(old)
        # What it was told is reapplied, the end with it.
        again = await reset(client, old, first)
        assert (await again.result())[1:] == ["one"]
        excluded = [ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL]
        anew = await reset(client, old, first, reset_reapply_exclude_types=excluded)
        await anew.signal(Notes.note, "two")
        await anew.signal(Notes.end)
        assert (await anew.result())[1:] == ["two"]
        assert (await client.get_workflow_handle(old.id).describe()).run_id == anew.run_id
        first_run = client.get_workflow_handle(old.id, run_id=old.first_execution_run_id)
        assert (await first_run.describe()).status == WorkflowExecutionStatus.COMPLETED


async def test_a_child_tells_the_run_that_goes_on(client: Client):
    async with worker(client, [Notes, Child], activities=[counted]) as queue:
        child_id = unique("child")
        old = await started(client, queue, child_id)
        await idle(old)
        child = client.get_workflow_handle(child_id)
        run_id = (await child.describe()).run_id
        new = await reset(client, old, (await task_ends(old))[-1])
        await child.signal(Child.tell, "from the child")
        await new.signal(Notes.end)
        assert (await new.result())[-1] == "from the child"
        assert (await child.describe()).run_id == run_id, "it is the same child"


async def test_a_repeated_request_resets_once(client: Client):
    async with worker(client, [Notes], activities=[counted]) as queue:
        old = await started(client, queue)
        await idle(old)
        [first, *_] = await task_ends(old)
        once = await reset(client, old, first, request_id="once")
        again = await reset(client, old, first, request_id="once")
        assert once.run_id == again.run_id
        await once.terminate()


async def test_a_run_outlives_the_one_that_was_reset(client: Client):
    async with worker(client, [Notes], activities=[counted], max_cached_workflows=0) as queue:
        old = await started(client, queue)
        await idle(old)
        new = await reset(client, old, (await task_ends(old))[-1])
        await client.workflow_service.delete_workflow_execution(
            DeleteWorkflowExecutionRequest(
                namespace=client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=old.id, run_id=old.first_execution_run_id),
            )
        )

        async def is_gone() -> bool:
            try:
                await client.get_workflow_handle(old.id, run_id=old.first_execution_run_id).describe()
            except RPCError:
                return True
            return False

        await until(is_gone, "the run that was reset is deleted")
        await asyncio.sleep(0.2)
        # Its worker has nothing cached, so it replays the whole history.
        await new.signal(Notes.note, "still here")
        await new.signal(Notes.end)
        assert (await new.result())[1:] == ["still here"]
        await verified(new, Notes)
