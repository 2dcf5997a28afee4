// For each text on stdin, a JSON string per line: what search-key.js forms of it, as a line of JSON.

import { createInterface } from 'node:readline';
import { escapeBraces, fold, pattern } from './search-key.js';

for await (const line of createInterface({ input: process.stdin })) {
  const text = JSON.parse(line);
  const folded = fold(text);
  process.stdout.write(`${JSON.stringify({ text, folded, key: `search:${escapeBraces(folded)}`, pattern: pattern(text) })}\n`);
}
