// What a worker with the bug repaired runs under the name of the workflow that `workflows.js` gets wrong.
export async function buggy() {
  return 'repaired';
}
