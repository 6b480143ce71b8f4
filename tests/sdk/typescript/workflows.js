// The workflows of the conformance tests. The SDK bundles this file and runs it in its deterministic sandbox.
import {
  ActivityCancellationType,
  ApplicationFailure,
  CancellationScope,
  condition,
  continueAsNew,
  defineQuery,
  defineSignal,
  isCancellation,
  patched,
  proxyActivities,
  proxyLocalActivities,
  setHandler,
  sleep,
  uuid4,
  workflowInfo,
} from '@temporalio/workflow';

export const add = defineSignal('add');
export const sum = defineQuery('sum');
export const fails = defineQuery('fails');

// Runs the named activity with the given options.
export async function runsActivity(name, args, options) {
  return await proxyActivities({ startToCloseTimeout: '10s', ...options })[name](...args);
}

// Returns the first `count` values signalled to it, in order.
export async function collects(count) {
  const values = [];
  setHandler(add, (value) => void values.push(value));
  setHandler(sum, () => values.reduce((a, b) => a + b, 0));
  setHandler(fails, () => {
    throw new Error('no answer');
  });
  await condition(() => values.length >= count);
  return values;
}

// Fires two timers and cancels a third.
export async function sleeps() {
  const scope = new CancellationScope();
  const long = scope.run(() => sleep('1h'));
  await sleep(200);
  scope.cancel();
  try {
    await long;
  } catch (error) {
    if (!isCancellation(error)) throw error;
  }
  await sleep(100);
  return 'awake';
}

export async function countsDown(left) {
  if (left > 0) await continueAsNew(left - 1);
  return workflowInfo().firstExecutionRunId;
}

export async function waits() {
  await condition(() => false);
}

// Is cancelled together with its activity, and cleans up afterwards.
export async function waitsForActivity() {
  const { beatsUntilCancelled, echo } = proxyActivities({
    startToCloseTimeout: '15s',
    heartbeatTimeout: '5s',
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
  });
  try {
    await beatsUntilCancelled();
  } catch (error) {
    await CancellationScope.nonCancellable(() => echo('cleaned up'));
    throw error;
  }
}

export async function failing() {
  throw ApplicationFailure.create({
    message: 'did not work',
    type: 'Unfit',
    details: ['detail'],
    cause: new Error('the reason'),
  });
}

// Fails its workflow task, not itself. `fixed.js` has the workflow of the same name that works.
export async function buggy() {
  throw new Error('a bug, not a failure of the workflow');
}

// Activities, local activities, timers and a patch, side by side.
export async function mixed(count) {
  const { double } = proxyActivities({ startToCloseTimeout: '10s' });
  const local = proxyLocalActivities({ startToCloseTimeout: '10s' });
  uuid4();
  const results = await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      await sleep(20 * (count - i));
      return (await double(i)) + (await local.double(i));
    }),
  );
  if (patched('one-more-timer')) await sleep(Math.random() * 20);
  return results;
}

// Sleeps for so many days, and returns how many that were by its clock.
export async function sleepsDaily(days) {
  const begun = Date.now();
  for (let slept = 0; slept < days; slept++) await sleep('1 day');
  return Math.round((Date.now() - begun) / (24 * 3600 * 1000));
}
