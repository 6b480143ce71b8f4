// Connections, workers, and the checks that hold for every history.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Client, Connection } from '@temporalio/client';
import proto from '@temporalio/proto';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';

const { EventType } = proto.temporal.api.enums.v1;
const address = process.env.EVERLOG_ADDRESS;
const patienceMs = 20_000;

// Failing workflows and activities are what these tests are about: their stack traces would bury the results.
const logger = new DefaultLogger('ERROR', () => {});
Runtime.install({ logger, telemetryOptions: { logging: { filter: 'ERROR' } } });

const connection = await Connection.connect({ address });
const nativeConnection = await NativeConnection.connect({ address });
export const client = new Client({ connection });

const bundles = {
  broken: await bundle('workflows.js'),
  fixed: await bundle('fixed.js'),
};

async function bundle(file) {
  return await bundleWorkflowCode({ workflowsPath: fileURLToPath(new URL(file, import.meta.url)), logger });
}

// Closes what keeps the process alive.
export async function disconnect() {
  await connection.close();
  await nativeConnection.close();
}

// A name that no other test, run or process uses.
export function unique(prefix) {
  return `${prefix}-${randomUUID()}`;
}

// Runs a worker while `body` runs; hands it the task queue.
export async function withWorker(activities, body, { taskQueue = unique('tq'), code = 'broken', ...options } = {}) {
  const worker = await Worker.create({
    connection: nativeConnection,
    taskQueue,
    activities,
    workflowBundle: bundles[code],
    maxHeartbeatThrottleInterval: 200,
    defaultHeartbeatThrottleInterval: 200,
    shutdownGraceTime: 100,
    ...options,
  });
  return await worker.runUntil(() => body(taskQueue));
}

// Starts a workflow under an id of its own.
export async function start(workflowType, taskQueue, args = [], options = {}) {
  return await client.workflow.start(workflowType, { taskQueue, args, workflowId: unique(workflowType), ...options });
}

// Waits until `condition` returns something true, and returns that.
export async function until(condition, what) {
  for (const deadline = Date.now() + patienceMs; Date.now() < deadline; await pause(50)) {
    const value = await condition();
    if (value) return value;
  }
  assert.fail(`did not happen within ${patienceMs} ms: ${what}`);
}

// The event's type, e.g. `TIMER_FIRED`.
export function kind(event) {
  return EventType[event.eventType].replace('EVENT_TYPE_', '');
}

// The event types of the handle's run.
export async function kinds(handle) {
  const history = await handle.fetchHistory();
  return history.events.map(kind);
}

// Reads the run's history, checks it, replays it with the SDK, and returns its events.
export async function verified(handle, { code = 'broken' } = {}) {
  const history = await handle.fetchHistory();
  history.events.forEach((event, index) => {
    assert.equal(Number(event.eventId), index + 1, 'event ids are contiguous from 1');
    if (kind(event) === 'WORKFLOW_TASK_STARTED' && index + 1 < history.events.length) {
      assert.match(kind(history.events[index + 1]), /^WORKFLOW_TASK_(COMPLETED|FAILED|TIMED_OUT)$/);
    }
  });
  await Worker.runReplayHistory({ workflowBundle: bundles[code] }, history, handle.workflowId);
  return history.events;
}
