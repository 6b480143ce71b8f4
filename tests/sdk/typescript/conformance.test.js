// The main path of the TypeScript SDK against a running server.
import assert from 'node:assert/strict';
import { after, suite, test } from 'node:test';
import { activityInfo, ApplicationFailure, CompleteAsyncError, Context, heartbeat, sleep } from '@temporalio/activity';
import { QueryNotRegisteredError, WorkflowFailedError, WorkflowNotFoundError } from '@temporalio/client';
import {
  ActivityFailure,
  CancelledFailure,
  RetryState,
  TerminatedFailure,
  TimeoutFailure,
  TimeoutType,
  WorkflowExecutionAlreadyStartedError,
} from '@temporalio/common';
import { client, disconnect, kind, kinds, start, unique, until, verified, withWorker } from './server.js';

const retry = { initialInterval: 50, backoffCoefficient: 1, maximumAttempts: 3 };

const activities = {
  async echo(value) {
    return value;
  },
  async double(value) {
    return value * 2;
  },
  async failsTwice() {
    if (activityInfo().attempt < 3) throw ApplicationFailure.create({ message: 'not yet', type: 'NotYet' });
    return activityInfo().attempt;
  },
  async alwaysFails() {
    throw ApplicationFailure.create({ message: 'broken', type: 'Broken', details: ['detail', 7] });
  },
  async failsForGood() {
    throw ApplicationFailure.nonRetryable('for good', 'Final');
  },
  async hangsAfterOneHeartbeat() {
    heartbeat('progress');
    await sleep('30s');
  },
  async resumes() {
    const details = activityInfo().heartbeatDetails;
    if (details !== undefined) return details;
    heartbeat(17);
    throw new Error('crashed after 17');
  },
  async beatsUntilCancelled() {
    for (;;) {
      heartbeat();
      await sleep(50);
    }
  },
};

async function causeOf(promise) {
  const error = await promise.then(
    () => assert.fail('the workflow did not fail'),
    (error) => error,
  );
  assert.ok(error instanceof WorkflowFailedError, String(error));
  return error.cause;
}

async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

suite('conformance', { concurrency: 4 }, () => {
  after(disconnect);

  test('an activity returns its result', async () => {
    await withWorker(activities, async (queue) => {
      const handle = await start('runsActivity', queue, ['echo', [{ a: [1, 'zwei', null] }], {}]);
      assert.deepEqual(await handle.result(), { a: [1, 'zwei', null] });
      assert.deepEqual((await verified(handle)).map(kind), [
        'WORKFLOW_EXECUTION_STARTED',
        'WORKFLOW_TASK_SCHEDULED',
        'WORKFLOW_TASK_STARTED',
        'WORKFLOW_TASK_COMPLETED',
        'ACTIVITY_TASK_SCHEDULED',
        'ACTIVITY_TASK_STARTED',
        'ACTIVITY_TASK_COMPLETED',
        'WORKFLOW_TASK_SCHEDULED',
        'WORKFLOW_TASK_STARTED',
        'WORKFLOW_TASK_COMPLETED',
        'WORKFLOW_EXECUTION_COMPLETED',
      ]);
    });
  });

  test('a payload of one megabyte comes back', async () => {
    await withWorker(activities, async (queue) => {
      const text = '0123456789abcdef'.repeat(65536);
      const handle = await start('runsActivity', queue, ['echo', [text], {}]);
      // The whole history, four copies of the text, is more than this SDK's client takes in one message.
      assert.equal(await handle.result(), text);
    });
  });

  test('an activity is retried until it succeeds', async () => {
    await withWorker(activities, async (queue) => {
      const handle = await start('runsActivity', queue, ['failsTwice', [], { retry }]);
      assert.equal(await handle.result(), 3);
      const started = (await verified(handle)).filter((event) => kind(event) === 'ACTIVITY_TASK_STARTED');
      assert.equal(started.length, 1);
      assert.equal(started[0].activityTaskStartedEventAttributes.attempt, 3);
      assert.equal(started[0].activityTaskStartedEventAttributes.lastFailure.message, 'not yet');
    });
  });

  test('the workflow sees why its activity failed', async () => {
    await withWorker(activities, async (queue) => {
      for (const [name, message, retryState] of [
        ['alwaysFails', 'broken', RetryState.MAXIMUM_ATTEMPTS_REACHED],
        ['failsForGood', 'for good', RetryState.NON_RETRYABLE_FAILURE],
      ]) {
        const handle = await start('runsActivity', queue, [name, [], { retry }]);
        const failure = await causeOf(handle.result());
        assert.ok(failure instanceof ActivityFailure);
        assert.equal(failure.retryState, retryState);
        assert.ok(failure.cause instanceof ApplicationFailure);
        assert.equal(failure.cause.message, message);
      }
    });
  });

  test('activities time out', async () => {
    await withWorker(activities, async (queue) => {
      const maximumAttempts = 1;
      for (const [options, timeoutType] of [
        [{ startToCloseTimeout: 400, retry: { maximumAttempts } }, TimeoutType.START_TO_CLOSE],
        [{ heartbeatTimeout: 400, retry: { maximumAttempts } }, TimeoutType.HEARTBEAT],
      ]) {
        const handle = await start('runsActivity', queue, ['hangsAfterOneHeartbeat', [], options]);
        const failure = await causeOf(handle.result());
        assert.ok(failure.cause instanceof TimeoutFailure);
        assert.equal(failure.cause.timeoutType, timeoutType);
        if (timeoutType === TimeoutType.HEARTBEAT) assert.equal(failure.cause.lastHeartbeatDetails, 'progress');
      }
    });
  });

  test('heartbeat details reach the next attempt', async () => {
    await withWorker(activities, async (queue) => {
      const handle = await start('runsActivity', queue, ['resumes', [], { retry, heartbeatTimeout: '5s' }]);
      assert.equal(await handle.result(), 17);
    });
  });

  test('an activity is completed from elsewhere', async () => {
    for (const by of ['token', 'id']) {
      let taken;
      const handsOver = async () => {
        taken = Context.current().info;
        throw new CompleteAsyncError();
      };
      await withWorker({ handsOver }, async (queue) => {
        const handle = await start('runsActivity', queue, ['handsOver', [], {}]);
        await until(() => taken, 'the activity is started');
        const { workflowId, runId } = taken.workflowExecution;
        const id = by === 'token' ? taken.taskToken : { workflowId, runId, activityId: taken.activityId };
        await client.activity.heartbeat(id, 'half way');
        await client.activity.complete(id, 'from elsewhere');
        assert.equal(await handle.result(), 'from elsewhere');
      });
    }
  });

  test('timers fire, and cancelled ones do not', async () => {
    await withWorker(activities, async (queue) => {
      const handle = await start('sleeps', queue);
      assert.equal(await handle.result(), 'awake');
      const seen = (await verified(handle)).map(kind);
      assert.equal(seen.filter((name) => name === 'TIMER_STARTED').length, 3);
      assert.equal(seen.filter((name) => name === 'TIMER_FIRED').length, 2);
      assert.equal(seen.filter((name) => name === 'TIMER_CANCELED').length, 1);
    });
  });

  test('signals arrive in order', async () => {
    await withWorker(activities, async (queue) => {
      const handle = await start('collects', queue, [100]);
      const values = Array.from({ length: 100 }, (_, i) => i);
      for (const value of values) await handle.signal('add', value);
      assert.deepEqual(await handle.result(), values);
      await verified(handle);
    });
  });

  test('signal with start starts, then signals', async () => {
    await withWorker(activities, async (queue) => {
      const options = { workflowId: unique('signal-start'), taskQueue: queue, args: [2], signal: 'add' };
      const first = await client.workflow.signalWithStart('collects', { ...options, signalArgs: [1] });
      const second = await client.workflow.signalWithStart('collects', { ...options, signalArgs: [2] });
      assert.equal(first.signaledRunId, second.signaledRunId);
      assert.deepEqual(await first.result(), [1, 2]);
    });
  });

  test('queries answer while the workflow runs and after', async () => {
    await withWorker(activities, async (queue) => {
      const handle = await start('collects', queue, [3]);
      for (let i = 0; i < 3; i++) {
        assert.equal(await handle.query('sum'), i);
        await handle.signal('add', 1);
      }
      await handle.result();
      assert.equal(await handle.query('sum'), 3);
      await assert.rejects(handle.query('fails'), /no answer/);
      await assert.rejects(handle.query('unheardOf'), QueryNotRegisteredError);
    });
  });

  test('a workflow continues as new', async () => {
    await withWorker(activities, async (queue) => {
      const handle = await start('countsDown', queue, [2]);
      assert.equal(await handle.result(), handle.firstExecutionRunId);
      const first = client.workflow.getHandle(handle.workflowId, handle.firstExecutionRunId);
      assert.equal((await first.describe()).status.name, 'CONTINUED_AS_NEW');
      assert.equal((await verified(first)).map(kind).at(-1), 'WORKFLOW_EXECUTION_CONTINUED_AS_NEW');
      assert.equal((await client.workflow.getHandle(handle.workflowId).describe()).status.name, 'COMPLETED');
    });
  });

  test('cancellation reaches the activity and leaves time to clean up', async () => {
    await withWorker(activities, async (queue) => {
      const handle = await start('waitsForActivity', queue);
      await until(async () => (await handle.describe()).raw.pendingActivities?.[0]?.state === 2, 'the activity runs');
      await handle.cancel();
      assert.ok((await causeOf(handle.result())) instanceof CancelledFailure);
      const seen = (await verified(handle)).map(kind);
      assert.ok(seen.includes('ACTIVITY_TASK_CANCELED') && seen.includes('ACTIVITY_TASK_COMPLETED'));
      assert.equal(seen.at(-1), 'WORKFLOW_EXECUTION_CANCELED');
    });
  });

  test('a workflow is terminated', async () => {
    await withWorker(activities, async (queue) => {
      const handle = await start('waits', queue);
      await handle.terminate('no longer needed');
      assert.ok((await causeOf(handle.result())) instanceof TerminatedFailure);
      await assert.rejects(handle.terminate(), WorkflowNotFoundError);
    });
  });

  test('a workflow fails, with details and cause', async () => {
    await withWorker(activities, async (queue) => {
      const failure = await causeOf((await start('failing', queue)).result());
      assert.ok(failure instanceof ApplicationFailure);
      assert.deepEqual([failure.message, failure.type, failure.details], ['did not work', 'Unfit', ['detail']]);
      assert.equal(failure.cause.message, 'the reason');
    });
  });

  test('a workflow runs out of time', async () => {
    await withWorker(activities, async (queue) => {
      const handle = await start('waits', queue, [], { workflowRunTimeout: '1s' });
      assert.ok((await causeOf(handle.result())) instanceof TimeoutFailure);
    });
  });

  test('a running workflow is not started twice', async () => {
    const queue = unique('tq');
    const handle = await start('waits', queue);
    await assert.rejects(
      start('waits', queue, [], { workflowId: handle.workflowId }),
      WorkflowExecutionAlreadyStartedError,
    );
    const same = await start('waits', queue, [], {
      workflowId: handle.workflowId,
      workflowIdConflictPolicy: 'USE_EXISTING',
    });
    assert.equal(same.firstExecutionRunId, handle.firstExecutionRunId);
    await handle.terminate();
    await assert.rejects(
      start('waits', queue, [], { workflowId: handle.workflowId, workflowIdReusePolicy: 'REJECT_DUPLICATE' }),
      WorkflowExecutionAlreadyStartedError,
    );
  });

  test('a bug in workflow code is survived', async () => {
    const taskQueue = unique('tq');
    const handle = await start('buggy', taskQueue, [], { workflowTaskTimeout: '1s' });
    const failed = async () => (await kinds(handle)).includes('WORKFLOW_TASK_FAILED');
    await withWorker(activities, () => until(failed, 'the workflow task fails'), { taskQueue });
    const result = await withWorker(activities, () => handle.result(), { taskQueue, code: 'fixed' });
    assert.equal(result, 'repaired');
    await verified(handle, { code: 'fixed' });
  });

  test('timers, activities, local activities and a patch mix', async () => {
    await withWorker(activities, async (queue) => {
      const handles = await Promise.all(Array.from({ length: 5 }, () => start('mixed', queue, [5])));
      for (const handle of handles) {
        assert.deepEqual(await handle.result(), [0, 4, 8, 12, 16]);
        const markers = (await verified(handle)).filter((event) => kind(event) === 'MARKER_RECORDED');
        assert.equal(markers.length, 6);
      }
    });
  });

  test('a worker without a cache replays every time', async () => {
    const uncached = { maxCachedWorkflows: 0 };
    await withWorker(
      activities,
      async (queue) => {
        const handle = await start('collects', queue, [5]);
        for (let i = 0; i < 5; i++) {
          assert.equal(await handle.query('sum'), i);
          await handle.signal('add', 1);
        }
        assert.deepEqual(await handle.result(), [1, 1, 1, 1, 1]);
        assert.equal(await (await start('sleeps', queue)).result(), 'awake');
      },
      uncached,
    );
  });

  test('a workflow is described and listed', async () => {
    const queue = unique('tq');
    const handle = await start('waits', queue, [], { memo: { color: 'green' } });
    const description = await handle.describe();
    assert.equal(description.status.name, 'RUNNING');
    assert.equal(description.type, 'waits');
    assert.equal(description.taskQueue, queue);
    assert.deepEqual(description.memo, { color: 'green' });
    const query = `WorkflowId = '${handle.workflowId}' AND ExecutionStatus = 'Running' AND WorkflowType = 'waits'`;
    const listed = await until(async () => {
      const found = await all(client.workflow.list({ query }));
      return found.length === 1 && found[0];
    }, 'the workflow is listed');
    assert.equal(listed.runId, handle.firstExecutionRunId);
    await handle.terminate();
  });

  test('there is no unknown workflow', async () => {
    const unknown = client.workflow.getHandle(unique('unknown'));
    for (const call of [() => unknown.describe(), () => unknown.signal('add', 1), () => unknown.cancel()]) {
      await assert.rejects(call, WorkflowNotFoundError);
    }
  });
});
