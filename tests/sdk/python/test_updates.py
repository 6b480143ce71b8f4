"""Updates: accepted, completed, rejected by their validator, across closes and continue-as-new, and together with a start."""

import asyncio
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowUpdateFailedError,
    WorkflowUpdateStage,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from history import kinds, verified
from running import unique, worker


@activity.defn
async def doubled(value: int) -> int:
    return 2 * value


@workflow.defn
class Account:
    """A balance that updates change. It ends, or begins anew, when told to."""

    @workflow.init
    def __init__(self, balance: int = 0) -> None:
        self.balance = balance
        self.told: str | None = None

    @workflow.run
    async def run(self, balance: int = 0) -> int:
        await workflow.wait_condition(lambda: self.told is not None)
        if self.told == "again":
            workflow.continue_as_new(self.balance)
        return self.balance

    @workflow.signal
    def tell(self, what: str) -> None:
        self.told = what

    @workflow.update
    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @deposit.validator
    def check_deposit(self, amount: int) -> None:
        if amount <= 0:
            raise ApplicationError("not a deposit", type="NotADeposit")

    @workflow.update
    async def deposit_doubled(self, amount: int) -> int:
        amount = await workflow.execute_activity(doubled, amount, start_to_close_timeout=timedelta(seconds=10))
        return self.deposit(amount)

    @workflow.update
    async def fails(self) -> None:
        raise ApplicationError("it fails", type="Fails")

    @workflow.update
    async def waits(self) -> None:
        await workflow.wait_condition(lambda: False)


async def started(client: Client, queue: str):
    return await client.start_workflow(Account.run, 0, id=unique("update"), task_queue=queue)


async def test_an_update_answers_with_what_its_handler_returns(client: Client):
    async with worker(client, [Account], activities=[doubled]) as queue:
        account = await started(client, queue)
        assert await account.execute_update(Account.deposit, 5) == 5
        assert await account.execute_update(Account.deposit_doubled, 5) == 15
        with pytest.raises(WorkflowUpdateFailedError) as failed:
            await account.execute_update(Account.fails)
        assert failed.value.cause.message == "it fails"
        await account.signal(Account.tell, "end")
        assert await account.result() == 15
    seen = kinds(await verified(account, Account))
    assert seen.count("WORKFLOW_EXECUTION_UPDATE_ACCEPTED") == 3
    assert seen.count("WORKFLOW_EXECUTION_UPDATE_COMPLETED") == 3


async def test_a_rejected_update_leaves_no_trace(client: Client):
    async with worker(client, [Account]) as queue:
        account = await started(client, queue)
        await account.execute_update(Account.deposit, 1)
        before = (await account.describe()).history_length
        for _ in range(3):
            with pytest.raises(WorkflowUpdateFailedError) as failed:
                await account.execute_update(Account.deposit, -1)
            assert failed.value.cause.type == "NotADeposit"
        assert (await account.describe()).history_length == before
        assert await account.execute_update(Account.deposit, 1) == 2
        await account.signal(Account.tell, "end")
        assert await account.result() == 2
    await verified(account, Account)


async def test_an_update_is_done_once_for_each_id(client: Client):
    async with worker(client, [Account]) as queue:
        account = await started(client, queue)
        for _ in range(3):
            assert await account.execute_update(Account.deposit, 1, id="same") == 1
        handle = account.get_update_handle("same", result_type=int)
        assert await handle.result() == 1
        await account.signal(Account.tell, "end")
        assert await account.result() == 1
        assert await handle.result() == 1
    await verified(account, Account)


async def test_many_updates_at_once(client: Client):
    async with worker(client, [Account], activities=[doubled]) as queue:
        account = await started(client, queue)
        results = await asyncio.gather(*(account.execute_update(Account.deposit_doubled, 1) for _ in range(10)))
        assert sorted(results) == [2 * number for number in range(1, 11)]
        await account.signal(Account.tell, "end")
        assert await account.result() == 20
    await verified(account, Account)


async def test_a_caller_may_wait_for_acceptance_only(client: Client):
    async with worker(client, [Account]) as queue:
        account = await started(client, queue)
        handle = await account.start_update(Account.waits, wait_for_stage=WorkflowUpdateStage.ACCEPTED)
        await account.signal(Account.tell, "end")
        with pytest.raises(WorkflowUpdateFailedError) as failed:
            await handle.result()
        assert failed.value.cause.type == "AcceptedUpdateCompletedWorkflow"
        assert await account.result() == 0


async def test_an_update_waits_for_a_worker(client: Client):
    queue = unique("queue")
    account = await client.start_workflow(Account.run, 0, id=unique("update"), task_queue=queue)
    asked = asyncio.create_task(account.execute_update(Account.deposit, 3))
    await asyncio.sleep(0.5)
    async with worker(client, [Account], task_queue=queue):
        assert await asked == 3
        await account.signal(Account.tell, "end")
        assert await account.result() == 3
    await verified(account, Account)


async def test_updates_go_on_in_the_next_run(client: Client):
    async with worker(client, [Account]) as queue:
        account = await started(client, queue)
        await account.execute_update(Account.deposit, 1)
        workflow_of_any_run = client.get_workflow_handle_for(Account.run, account.id)
        await workflow_of_any_run.signal(Account.tell, "again")
        assert await workflow_of_any_run.execute_update(Account.deposit, 1) == 2
        await workflow_of_any_run.signal(Account.tell, "end")
        assert await workflow_of_any_run.result() == 2


async def test_update_with_start(client: Client):
    async with worker(client, [Account]) as queue:
        account_id = unique("update")

        def start() -> WithStartWorkflowOperation:
            return WithStartWorkflowOperation(
                Account.run,
                0,
                id=account_id,
                task_queue=queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )

        first, second = start(), start()
        assert await client.execute_update_with_start_workflow(Account.deposit, 1, start_workflow_operation=first) == 1
        assert await client.execute_update_with_start_workflow(Account.deposit, 1, start_workflow_operation=second) == 2
        account = await first.workflow_handle()
        assert account.id == (await second.workflow_handle()).id
        await account.signal(Account.tell, "end")
        assert await account.result() == 2
    await verified(account, Account)
