"""Nexus: workflows that call services of other workflows, by endpoints, and what both sides see of each other."""

import asyncio
import uuid
from datetime import timedelta

import nexusrpc
import nexusrpc.handler
import pytest
from temporalio import nexus, workflow
from temporalio.api.common.v1 import Link
from temporalio.api.enums.v1 import CallbackState, PendingNexusOperationState
from temporalio.api.nexus.v1 import EndpointSpec, EndpointTarget
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest, DeleteNexusEndpointRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError, NexusOperationError, TimeoutError

from history import events, kinds, of_kind, verified
from running import unique, until, worker


@workflow.defn
class Handler:
    """What an operation leads to: ends as it is told to."""

    @workflow.run
    async def run(self, what: str) -> str:
        match what:
            case "completes":
                return "done"
            case "fails":
                raise ApplicationError("did not work", type="Unfit")
            case "continues":
                workflow.continue_as_new("completes")
        await workflow.wait_condition(lambda: False)
        raise AssertionError("it waits for ever")


@nexusrpc.service
class Shop:
    """A service."""

    say: nexusrpc.Operation[str, str]
    run: nexusrpc.Operation[str, str]


@nexusrpc.handler.service_handler(service=Shop)
class ShopHandler:
    """Answers at once, or by a workflow."""

    def __init__(self) -> None:
        self.attempts = 0

    @nexusrpc.handler.sync_operation
    async def say(self, ctx: nexusrpc.handler.StartOperationContext, what: str) -> str:
        self.attempts += 1
        match what:
            case "no":
                raise nexusrpc.OperationError("never", state=nexusrpc.OperationErrorState.FAILED)
            case "bad":
                raise nexusrpc.HandlerError("bad", type=nexusrpc.HandlerErrorType.BAD_REQUEST)
            case "busy" if self.attempts < 3:
                raise nexusrpc.HandlerError("busy", type=nexusrpc.HandlerErrorType.UNAVAILABLE)
        return f"{what} {ctx.headers.get('test-key', '')}".strip()

    @nexus.workflow_run_operation
    async def run(self, ctx: nexus.WorkflowRunOperationContext, what: str) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(Handler.run, what, id=f"handler-{uuid.uuid4()}")


@workflow.defn
class Caller:
    """Calls an operation of the shop, and may cancel it."""

    def __init__(self) -> None:
        self.cancels = False

    @workflow.signal
    def cancel_it(self) -> None:
        self.cancels = True

    @workflow.run
    async def run(self, endpoint: str, operation: str, what: str, timeout_s: float) -> str:
        shop = workflow.create_nexus_client(service=Shop, endpoint=endpoint)
        handle = await shop.start_operation(
            getattr(Shop, operation),
            what,
            schedule_to_close_timeout=timedelta(seconds=timeout_s),
            headers={"Test-Key": "value"},
        )
        if what == "is canceled":
            await workflow.wait_condition(lambda: self.cancels)
            handle.cancel()
        return await handle


class Endpoint:
    """An endpoint that leads to a task queue."""

    def __init__(self, client: Client, task_queue: str) -> None:
        self.client, self.task_queue, self.name = client, task_queue, unique("endpoint")

    async def __aenter__(self) -> str:
        worker = EndpointTarget.Worker(namespace=self.client.namespace, task_queue=self.task_queue)
        spec = EndpointSpec(name=self.name, target=EndpointTarget(worker=worker))
        created = await self.client.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
        self.id, self.version = created.endpoint.id, created.endpoint.version
        return self.name

    async def __aexit__(self, *_: object) -> None:
        request = DeleteNexusEndpointRequest(id=self.id, version=self.version)
        await self.client.operator_service.delete_nexus_endpoint(request)


async def start(client: Client, task_queue: str, endpoint: str, *arguments: str, timeout_s: float = 60) -> WorkflowHandle:
    return await client.start_workflow(
        Caller.run, args=[endpoint, *arguments, timeout_s], id=unique("caller"), task_queue=task_queue
    )


def shop_worker(client: Client, task_queue: str, handler: ShopHandler | None = None):
    return worker(client, [Caller, Handler], task_queue=task_queue, nexus_service_handlers=[handler or ShopHandler()])


async def test_a_service_answers_at_once(client: Client) -> None:
    queue = unique("tq")
    async with Endpoint(client, queue) as endpoint, shop_worker(client, queue):
        handle = await start(client, queue, endpoint, "say", "hello")
        assert await handle.result() == "hello value"
        history = await events(handle)
        assert "NEXUS_OPERATION_STARTED" not in kinds(history)
        assert len(of_kind(history, "NEXUS_OPERATION_COMPLETED")) == 1
        await verified(handle, Caller)


@pytest.mark.parametrize("what", ["completes", "continues"])
async def test_an_operation_is_a_workflow(client: Client, what: str) -> None:
    queue = unique("tq")
    async with Endpoint(client, queue) as endpoint, shop_worker(client, queue):
        handle = await start(client, queue, endpoint, "run", what)
        assert await handle.result() == "done"
        history = await events(handle)
        [started] = of_kind(history, "NEXUS_OPERATION_STARTED")
        [link] = started.links
        led_to = client.get_workflow_handle(link.workflow_event.workflow_id, run_id=link.workflow_event.run_id)
        first = (await events(led_to))[0]
        [callback] = first.workflow_execution_started_event_attributes.completion_callbacks
        links = list(callback.links) or list(first.links)
        assert links == [
            Link(
                workflow_event=Link.WorkflowEvent(
                    namespace=client.namespace,
                    workflow_id=handle.id,
                    run_id=handle.result_run_id,
                    event_ref=Link.WorkflowEvent.EventReference(event_id=5, event_type="EVENT_TYPE_NEXUS_OPERATION_SCHEDULED"),
                )
            )
        ]

        async def told() -> bool:
            last = client.get_workflow_handle(led_to.id)
            callbacks = (await last.describe()).raw_description.callbacks
            return [callback.state for callback in callbacks] == [CallbackState.CALLBACK_STATE_SUCCEEDED]

        await until(told, "the callback has succeeded")
        await verified(handle, Caller)


@pytest.mark.parametrize("how", ["fails", "is terminated"])
async def test_an_operation_fails_with_its_workflow(client: Client, how: str) -> None:
    queue = unique("tq")
    async with Endpoint(client, queue) as endpoint, shop_worker(client, queue):
        handle = await start(client, queue, endpoint, "run", how)
        if how == "is terminated":
            await (await handler_of(client, handle)).terminate()
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        error = failed.value.cause
        assert isinstance(error, NexusOperationError)
        assert (error.endpoint, error.service, error.operation) == (endpoint, "Shop", "run")
        assert ("did not work" if how == "fails" else "operation terminated") in str(error.cause)


async def handler_of(client: Client, handle: WorkflowHandle) -> WorkflowHandle:
    async def started():
        return of_kind(await events(handle), "NEXUS_OPERATION_STARTED")

    [event] = await until(started, "the operation has started")
    return client.get_workflow_handle(event.links[0].workflow_event.workflow_id)


async def test_an_operation_is_canceled(client: Client) -> None:
    queue = unique("tq")
    async with Endpoint(client, queue) as endpoint, shop_worker(client, queue):
        handle = await start(client, queue, endpoint, "run", "is canceled")
        led_to = await handler_of(client, handle)
        [pending] = (await handle.describe()).raw_description.pending_nexus_operations
        assert pending.state == PendingNexusOperationState.PENDING_NEXUS_OPERATION_STATE_STARTED
        await handle.signal(Caller.cancel_it)
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert isinstance(failed.value.cause, (NexusOperationError, CancelledError))
        with pytest.raises(WorkflowFailureError):
            await led_to.result()
        of_caller = kinds(await events(handle))
        # The operation, and the caller with it, may end before the answer to the request to cancel it is there.
        for kind in ("CANCEL_REQUESTED", "CANCELED"):
            assert f"NEXUS_OPERATION_{kind}" in of_caller


async def test_what_fails_for_now_is_tried_again_and_what_fails_for_good_is_not(client: Client) -> None:
    queue, handler = unique("tq"), ShopHandler()
    async with Endpoint(client, queue) as endpoint, shop_worker(client, queue, handler):
        assert await (await start(client, queue, endpoint, "say", "busy")).result() == "busy value"
        assert handler.attempts == 3
        for what in ("no", "bad"):
            with pytest.raises(WorkflowFailureError) as failed:
                await (await start(client, queue, endpoint, "say", what)).result()
            assert isinstance(failed.value.cause, NexusOperationError)
        assert handler.attempts == 5


async def test_without_a_worker_an_operation_times_out(client: Client) -> None:
    queue, nobody = unique("tq"), unique("nobody")
    async with Endpoint(client, nobody) as endpoint, worker(client, [Caller], task_queue=queue):
        handle = await start(client, queue, endpoint, "say", "hello", timeout_s=3)
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert isinstance(failed.value.cause, NexusOperationError)
        assert isinstance(failed.value.cause.cause, TimeoutError)


async def test_requests_find_the_worker_that_comes_later(client: Client) -> None:
    queue, late = unique("tq"), unique("late")
    async with Endpoint(client, late) as endpoint, worker(client, [Caller], task_queue=queue):
        handle = await start(client, queue, endpoint, "say", "hello")

        async def is_pending() -> bool:
            return len((await handle.describe()).raw_description.pending_nexus_operations) == 1

        await until(is_pending, "the operation is scheduled")
        await asyncio.sleep(0.2)
        async with shop_worker(client, late):
            assert await handle.result() == "hello value"
