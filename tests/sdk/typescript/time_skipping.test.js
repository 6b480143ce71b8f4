// The SDK's time-skipping test environment, with Everlog in the place of Temporal's test server.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { WorkflowFailedError } from '@temporalio/client';
import { TimeoutFailure, TimeoutType } from '@temporalio/common';
import { TestWorkflowEnvironment } from '@temporalio/testing';
import { bundleWorkflowCode, DefaultLogger, Runtime, Worker } from '@temporalio/worker';

const day = 24 * 3600 * 1000;
const logger = new DefaultLogger('ERROR', () => {});
Runtime.install({ logger, telemetryOptions: { logging: { filter: 'ERROR' } } });

// The suite may run from a copy of its folder, from which deploy/ is not to be found.
const path = process.env.EVERLOG_TEST_SERVER ?? fileURLToPath(new URL('../../../deploy/test-server.sh', import.meta.url));
const skip = process.env.EVERLOG_BIN ? false : 'EVERLOG_BIN does not name the binary to start';

suite('time is skipped', { skip }, () => {
  let environment, workflowBundle;

  before(async () => {
    environment = await TestWorkflowEnvironment.createTimeSkipping({ server: { executable: { type: 'existing-path', path } } });
    const workflowsPath = fileURLToPath(new URL('workflows.js', import.meta.url));
    workflowBundle = await bundleWorkflowCode({ workflowsPath, logger });
  });
  after(() => environment?.teardown());

  async function execute(workflowType, args, activities = {}) {
    const taskQueue = `tq-${randomUUID()}`;
    const worker = await Worker.create({ connection: environment.nativeConnection, taskQueue, workflowBundle, activities });
    const options = { taskQueue, args, workflowId: `${workflowType}-${randomUUID()}` };
    return await worker.runUntil(() => environment.client.workflow.execute(workflowType, options));
  }

  async function near(begun, milliseconds) {
    const passed = (await environment.currentTimeMs()) - begun;
    assert.ok(Math.abs(passed - milliseconds) < 30_000, `${passed} ms have passed instead of ${milliseconds}`);
  }

  test('a year of timers takes no time', async () => {
    const [begun, began] = [await environment.currentTimeMs(), Date.now()];
    assert.equal(await execute('sleepsDaily', [365]), 365);
    await near(begun, 365 * day);
    assert.ok(Date.now() - began < 20_000);
  });

  test('an environment sleeps', async () => {
    const begun = await environment.currentTimeMs();
    await environment.sleep('3 days');
    await near(begun, 3 * day);
  });

  test('an activity that sleeps by the service misses its heartbeats', async () => {
    const activities = {
      async sleepsByTheService() {
        await environment.sleep('40s');
      },
    };
    const options = { startToCloseTimeout: '1h', heartbeatTimeout: '20s', retry: { maximumAttempts: 1 } };
    const failed = execute('runsActivity', ['sleepsByTheService', [], options], activities);
    const error = await failed.then(
      () => assert.fail('the workflow did not fail'),
      (error) => error,
    );
    assert.ok(error instanceof WorkflowFailedError, String(error));
    const timeout = error.cause.cause;
    assert.ok(timeout instanceof TimeoutFailure, String(timeout));
    assert.equal(timeout.timeoutType, TimeoutType.HEARTBEAT);
  });
});
