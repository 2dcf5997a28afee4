// Calls of reader.mjs: for each line of JSON on stdin, ["function", ...arguments], a line with {"value"} or {"error"}.
//
//   node reader_calls.mjs '{"redisUrl": ..., "mongodbUrl": ...}'

import { createInterface } from 'node:readline';
import * as reader from './reader.mjs';

const stores = await reader.connect(JSON.parse(process.argv[2]));
process.stdout.write('"connected"\n');
for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...rest] = JSON.parse(line);
  const started = performance.now();
  const answer = await reader[name](stores, ...rest).then((value) => ({ value }), (error) => ({ error: error.message }));
  process.stdout.write(`${JSON.stringify({ ...answer, ms: performance.now() - started })}\n`);
}
await stores.close();
