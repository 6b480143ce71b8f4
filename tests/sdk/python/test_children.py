"""Child workflows: how they start and end, what their parents hear, and what becomes of them when the parent ends."""

import asyncio
from datetime import timedelta

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    TerminatedError,
    TimeoutError,
    WorkflowAlreadyStartedError,
)
from temporalio.workflow import ParentClosePolicy

from history import of_kind, verified
from running import unique, until, worker


@workflow.defn
class Child:
    """Ends as it is told to."""

    def __init__(self) -> None:
        self.received: list[str] = []

    @workflow.signal
    def receive(self, value: str) -> None:
        self.received.append(value)

    @workflow.run
    async def run(self, what: str) -> str:
        info = workflow.info()
        assert info.parent and info.root
        match what:
            case "completes":
                return f"{info.workflow_id} of {info.parent.workflow_id} under {info.root.workflow_id}"
            case "fails":
                raise ApplicationError("did not work", type="Unfit")
            case "succeeds later":
                if info.attempt < 3:
                    raise ApplicationError("not yet")
                return f"attempt {info.attempt}"
            case "continues":
                workflow.continue_as_new("completes")
            case "listens":
                await workflow.wait_condition(lambda: len(self.received) == 3)
                return " ".join(self.received)
            case "hands down":
                return await workflow.execute_child_workflow(Child.run, "completes", id=f"{info.workflow_id}-child")
        await workflow.wait_condition(lambda: False)
        raise AssertionError("it waits for ever")


@workflow.defn
class Parent:
    """Runs one child and says how it has ended."""

    @workflow.run
    async def run(self, what: str, run_timeout_s: float = 0) -> str:
        options = {"run_timeout": timedelta(seconds=run_timeout_s)} if run_timeout_s else {}
        if what == "succeeds later":
            options["retry_policy"] = RetryPolicy(initial_interval=timedelta(milliseconds=100))
        return await workflow.execute_child_workflow(
            Child.run, what, id=f"{workflow.info().workflow_id}-child", **options
        )


async def ran(client: Client, what: str, **options) -> tuple[WorkflowHandle, str | BaseException]:
    async with worker(client, [Parent, Child]) as queue:
        handle = await client.start_workflow(
            Parent.run, args=[what, *options.values()], id=unique("parent"), task_queue=queue
        )
        try:
            return handle, await handle.result()
        except WorkflowFailureError as error:
            assert isinstance(error.cause, ChildWorkflowError), error.cause
            return handle, error.cause.cause


async def test_a_child_completes(client: Client):
    handle, result = await ran(client, "completes")
    assert result == f"{handle.id}-child of {handle.id} under {handle.id}"
    history = await verified(handle, Parent)
    assert len(of_kind(history, "CHILD_WORKFLOW_EXECUTION_STARTED")) == 1
    assert len(of_kind(history, "CHILD_WORKFLOW_EXECUTION_COMPLETED")) == 1
    await verified(client.get_workflow_handle(f"{handle.id}-child"), Child)


async def test_a_child_fails(client: Client):
    handle, error = await ran(client, "fails")
    assert isinstance(error, ApplicationError) and error.type == "Unfit"
    (failed,) = of_kind(await verified(handle, Parent), "CHILD_WORKFLOW_EXECUTION_FAILED")
    assert failed.child_workflow_execution_failed_event_attributes.failure.message == "did not work"


async def test_only_the_last_attempt_of_a_child_is_told_of(client: Client):
    handle, result = await ran(client, "succeeds later")
    assert result == "attempt 3"
    history = await verified(handle, Parent)
    assert len(of_kind(history, "CHILD_WORKFLOW_EXECUTION_STARTED")) == 1
    (completed,) = of_kind(history, "CHILD_WORKFLOW_EXECUTION_COMPLETED")
    last = await client.get_workflow_handle(f"{handle.id}-child").describe()
    execution = completed.child_workflow_execution_completed_event_attributes.workflow_execution
    assert execution.run_id == last.run_id


async def test_a_child_that_continues_as_new_ends_with_its_last_run(client: Client):
    handle, result = await ran(client, "continues")
    assert result == f"{handle.id}-child of {handle.id} under {handle.id}"
    history = await verified(handle, Parent)
    (started,) = of_kind(history, "CHILD_WORKFLOW_EXECUTION_STARTED")
    (completed,) = of_kind(history, "CHILD_WORKFLOW_EXECUTION_COMPLETED")
    first = started.child_workflow_execution_started_event_attributes.workflow_execution.run_id
    assert completed.child_workflow_execution_completed_event_attributes.workflow_execution.run_id != first


async def test_a_child_times_out(client: Client):
    handle, error = await ran(client, "waits", run_timeout_s=1.0)
    assert isinstance(error, TimeoutError)
    assert len(of_kind(await verified(handle, Parent), "CHILD_WORKFLOW_EXECUTION_TIMED_OUT")) == 1


async def test_a_child_is_terminated(client: Client):
    async with worker(client, [Parent, Child]) as queue:
        handle = await client.start_workflow(Parent.run, "waits", id=unique("parent"), task_queue=queue)
        child = client.get_workflow_handle(f"{handle.id}-child")
        await until(lambda: is_there(child), "the child runs")
        await child.terminate()
        with pytest.raises(WorkflowFailureError) as raised:
            await handle.result()
    assert isinstance(raised.value.cause.cause, TerminatedError)
    await verified(handle, Parent)


async def test_a_grandchild_knows_its_root(client: Client):
    handle, result = await ran(client, "hands down")
    assert result == f"{handle.id}-child-child of {handle.id}-child under {handle.id}"
    grandchild = await client.get_workflow_handle(f"{handle.id}-child-child").describe()
    assert (grandchild.parent_id, grandchild.root_id) == (f"{handle.id}-child", handle.id)
    found = [run.id async for run in client.list_workflows(f"RootWorkflowId = '{handle.id}'")]
    assert sorted(found) == [handle.id, f"{handle.id}-child", f"{handle.id}-child-child"]
    found = [run.id async for run in client.list_workflows(f"ParentWorkflowId = '{handle.id}'")]
    assert found == [f"{handle.id}-child"]


async def is_there(handle: WorkflowHandle) -> bool:
    try:
        return (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
    except Exception:  # not yet
        return False


@workflow.defn
class CancelsItsChild:
    @workflow.run
    async def run(self) -> str:
        child = await workflow.start_child_workflow(
            Child.run,
            "waits",
            id=f"{workflow.info().workflow_id}-child",
            cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        child.cancel()
        try:
            return await child
        except ChildWorkflowError as error:
            assert isinstance(error.cause, CancelledError)
            return "canceled"


async def test_a_parent_cancels_its_child(client: Client):
    async with worker(client, [CancelsItsChild, Child]) as queue:
        handle = await client.start_workflow(CancelsItsChild.run, id=unique("parent"), task_queue=queue)
        assert await handle.result() == "canceled"
    assert len(of_kind(await verified(handle, CancelsItsChild), "CHILD_WORKFLOW_EXECUTION_CANCELED")) == 1


@workflow.defn
class SignalsItsChild:
    @workflow.run
    async def run(self) -> str:
        child = await workflow.start_child_workflow(Child.run, "listens", id=f"{workflow.info().workflow_id}-child")
        for value in ["a", "b", "c"]:
            await child.signal(Child.receive, value)
        return await child


async def test_a_parent_signals_its_child(client: Client):
    async with worker(client, [SignalsItsChild, Child]) as queue:
        handle = await client.start_workflow(SignalsItsChild.run, id=unique("parent"), task_queue=queue)
        assert await handle.result() == "a b c"
    await verified(handle, SignalsItsChild)


@workflow.defn
class StartsATakenId:
    @workflow.run
    async def run(self, id: str, reuse: WorkflowIDReusePolicy) -> str:
        try:
            return await workflow.execute_child_workflow(Child.run, "completes", id=id, id_reuse_policy=reuse)
        except WorkflowAlreadyStartedError:
            return "taken"


async def test_an_id_that_is_taken(client: Client):
    async with worker(client, [StartsATakenId, Child]) as queue:

        async def start(child: str, reuse: WorkflowIDReusePolicy) -> str:
            handle = await client.start_workflow(
                StartsATakenId.run, args=[child, reuse], id=unique("parent"), task_queue=queue
            )
            result = await handle.result()
            await verified(handle, StartsATakenId)
            return result

        child = unique("child")
        assert await start(child, WorkflowIDReusePolicy.ALLOW_DUPLICATE) != "taken"
        assert await start(child, WorkflowIDReusePolicy.ALLOW_DUPLICATE) != "taken"
        assert await start(child, WorkflowIDReusePolicy.REJECT_DUPLICATE) == "taken"
        assert await start(child, WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY) == "taken"
        running = await client.start_workflow(Parent.run, "waits", id=unique("child"), task_queue=unique("tq"))
        assert await start(running.id, WorkflowIDReusePolicy.ALLOW_DUPLICATE) == "taken"
        await running.terminate()


@workflow.defn
class LeavesChildren:
    """Starts a child for each policy, and ends."""

    @workflow.run
    async def run(self, how: str) -> None:
        if how == "goes on":
            await workflow.wait_condition(lambda: False)
        for policy in ParentClosePolicy:
            await workflow.start_child_workflow(
                Child.run,
                "waits",
                id=f"{workflow.info().workflow_id}-{policy.name}",
                parent_close_policy=policy,
            )
        if how == "continues":
            workflow.continue_as_new("goes on")
        if how == "fails":
            raise ApplicationError("on purpose")
        if how == "waits":
            await workflow.wait_condition(lambda: False)


@pytest.mark.parametrize("how", ["completes", "fails", "continues", "is terminated"])
async def test_what_becomes_of_children(client: Client, how: str):
    async with worker(client, [LeavesChildren, Child]) as queue:
        argument = "waits" if how == "is terminated" else how
        parent = await client.start_workflow(LeavesChildren.run, argument, id=unique("parent"), task_queue=queue)
        children = {
            policy: client.get_workflow_handle(f"{parent.id}-{policy.name}")
            for policy in (
                ParentClosePolicy.TERMINATE,
                ParentClosePolicy.REQUEST_CANCEL,
                ParentClosePolicy.ABANDON,
            )
        }
        if how == "is terminated":
            for child in children.values():
                await until(lambda: is_there(child), "the child runs")
            await parent.terminate()

        first = {policy: await until(lambda: run_id(child), "a child") for policy, child in children.items()}

        async def status(policy: ParentClosePolicy) -> WorkflowExecutionStatus | None:
            handle = client.get_workflow_handle(f"{parent.id}-{policy.name}", run_id=first[policy])
            return (await handle.describe()).status

        async def ended() -> bool:
            return (
                await status(ParentClosePolicy.TERMINATE) == WorkflowExecutionStatus.TERMINATED
                and await status(ParentClosePolicy.REQUEST_CANCEL) == WorkflowExecutionStatus.CANCELED
            )

        await until(ended, "the children end")
        assert await status(ParentClosePolicy.ABANDON) == WorkflowExecutionStatus.RUNNING
        await children[ParentClosePolicy.ABANDON].terminate()
        if how == "continues":
            await client.get_workflow_handle(parent.id).terminate()
    history = await verified(
        client.get_workflow_handle(f"{parent.id}-TERMINATE", run_id=first[ParentClosePolicy.TERMINATE]), Child
    )
    (terminated,) = of_kind(history, "WORKFLOW_EXECUTION_TERMINATED")
    assert terminated.workflow_execution_terminated_event_attributes.reason == "by parent close policy"


async def run_id(handle: WorkflowHandle) -> str:
    try:
        return (await handle.describe()).run_id
    except Exception:  # not yet
        return ""


@workflow.defn
class HasMany:
    @workflow.run
    async def run(self, count: int) -> int:
        children = [
            workflow.execute_child_workflow(Child.run, "completes", id=f"{workflow.info().workflow_id}-{number}")
            for number in range(count)
        ]
        return len(set(await asyncio.gather(*children)))


async def test_many_children(client: Client):
    async with worker(client, [HasMany, Child]) as queue:
        handle = await client.start_workflow(HasMany.run, 150, id=unique("parent"), task_queue=queue)
        assert await handle.result() == 150
    history = await verified(handle, HasMany)
    assert len(of_kind(history, "CHILD_WORKFLOW_EXECUTION_COMPLETED")) == 150
