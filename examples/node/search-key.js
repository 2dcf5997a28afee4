// The key of a product search, formed exactly as the Python side forms it. No dependency.
//
//   searchKey('LAMP {x}')  ->  'search:lamp %7Bx%7D'
//
// Why not toLowerCase()? It makes two characters of one ('\u0130'), misses pairs that MongoDB equates ('\u017f' and 's'),
// and changes with the Unicode version of Node.js. A key that is not the one which a product change unlinks is never
// invalidated. fold-classes.json is a copy of cachekeeper/values/fold/classes.json, and travels with this file.

import { readFileSync } from 'node:fs';

export const MAX_TEXT_BYTES = 512;

const { classes } = JSON.parse(readFileSync(new URL('./fold-classes.json', import.meta.url), 'utf8'));

const folds = new Map();
const patterns = new Map([...'\\^$.[]|()?*+{}'].map((special) => [special, `\\${special}`]));
for (const members of classes) {
  const [first, ...others] = members; // by code points, as everything here
  for (const other of others) folds.set(other, first);
  patterns.set(first, `[${members}]`);
}

const mapped = (text, table) => Array.from(text, (character) => table.get(character) ?? character).join('');

/** One character for each; folding twice changes nothing; ASCII as toLowerCase() does it. */
export const fold = (text) => mapped(text, folds);

/** A pattern for `$regex`, without the option `i`: what it finds is what the key stands for, on every MongoDB. */
export const pattern = (text) => mapped(fold(text), patterns);

/** The condition on a field that it is text and holds `text` without regard to case; arrays of texts are not found. */
export const condition = (text) => ({ $regex: pattern(text), $type: 'string', $not: { $type: 'array' } });

const escapes = { '{': '%7B', '}': '%7D', '%': '%25' };

/** Braces would move the hash tag of the metadata; of the percent signs only those that would read as an escape. */
export const escapeBraces = (text) => text.replace(/[{}]|%(?=7B|7D|25)/g, (character) => escapes[character]);

/** Refuses what the Python side refuses. */
export function checkText(text) {
  if (typeof text !== 'string') throw new TypeError('text: must be text');
  if (text === '') throw new RangeError('text: must not be empty');
  if (text.includes('\0')) throw new RangeError('text: must not contain a NUL character');
  if (!text.isWellFormed()) throw new RangeError('text: must be valid Unicode, without lone surrogates');
  if (Buffer.byteLength(text) > MAX_TEXT_BYTES) throw new RangeError(`text: must be at most ${MAX_TEXT_BYTES} bytes in UTF-8`);
  return text;
}

/** The key under which the search for `text` is cached. */
export const searchKey = (text) => `search:${escapeBraces(fold(checkText(text)))}`;
