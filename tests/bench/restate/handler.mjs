// The workloads of the benchmark that Restate has an equivalent for: a durable step is what an activity is elsewhere.
import http2 from "node:http2";

import * as restate from "@restatedev/restate-sdk";

// The SDK needs this from Node 22; supply it to older ones.
Promise.withResolvers ??= function () {
  const parts = {};
  parts.promise = new this((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
};

const bench = restate.service({
  name: "bench",
  handlers: {
    // `count` durable steps one after the other.
    sequential: async (ctx, { count }) => {
      for (let step = 0; step < count; step++) {
        await ctx.run(`step-${step}`, () => null);
      }
      return count;
    },
  },
  // Journals are kept, so that they can be read back.
  options: { journalRetention: { hours: 1 }, idempotencyRetention: { hours: 1 } },
});

http2.createServer(restate.createEndpointHandler({ services: [bench] })).listen(Number(process.argv[2]), "127.0.0.1");
