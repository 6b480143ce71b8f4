"""Fairness keys: workers get tasks of each key, whatever others have waiting, and are told whose they are."""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import Priority

from running import unique, worker

order: list[str] = []


@activity.defn
async def noted(key: str) -> str:
    order.append(key)
    priority = activity.info().priority
    return f"{priority.fairness_key} {priority.fairness_weight}"


@workflow.defn
class Tenants:
    @workflow.run
    async def run(self, queue: str, tasks: dict[str, int], weights: dict[str, float]) -> list[str]:
        results = []
        for key, count in tasks.items():
            for _ in range(count):
                results.append(
                    workflow.start_activity(
                        noted,
                        key,
                        task_queue=queue,
                        start_to_close_timeout=timedelta(seconds=30),
                        priority=Priority(fairness_key=key, fairness_weight=weights.get(key)),
                    )
                )
        return sorted(set(await asyncio.gather(*results)))


async def shares(client: Client, tasks: dict[str, int], weights: dict[str, float], first: int) -> dict[str, int]:
    """How many of the first activities are of each key. All of them wait before a worker comes."""
    order.clear()
    activities = unique("activities")
    async with worker(client, [Tenants]) as queue:
        handle = await client.start_workflow(
            Tenants.run, args=[activities, tasks, weights], id=unique("fair"), task_queue=queue
        )
        while len((await handle.describe()).raw_description.pending_activities) < sum(tasks.values()):
            await asyncio.sleep(0.05)
        async with worker(client, [], [noted], task_queue=activities, max_concurrent_activities=1):
            told = await handle.result()
    assert told == sorted(f"{key} {weights.get(key, 0) or None}" for key in tasks)
    assert len(order) == sum(tasks.values())
    return {key: order[:first].count(key) for key in tasks}


async def test_a_small_key_does_not_wait_for_a_large_one(client: Client):
    found = await shares(client, {"large": 80, "small": 8}, {}, first=20)
    assert found["small"] == 8, found


async def test_keys_share_by_weight(client: Client):
    found = await shares(client, {"one": 60, "three": 60}, {"one": 1.0, "three": 3.0}, first=60)
    assert abs(found["three"] - 45) <= 4, found
