// The key of a product search, made exactly as in Python. Needs no other package.
//
//   searchKey('LAMP {x}')  ->  'search:lamp %7Bx%7D'
//
// Why not toLowerCase()? It turns one character into two ('\u0130'), misses pairs that MongoDB treats as equal, such as
// '\u017f' and 's', and changes with the Unicode version of Node.js. A product change would then unlink another key,
// and yours would never be invalidated. Keep fold-classes.json beside this file. It is a copy of
// cachekeeper/values/fold/classes.json.

import { readFileSync } from 'node:fs';

export const MAX_TEXT_BYTES = 512;

const { classes } = JSON.parse(readFileSync(new URL('./fold-classes.json', import.meta.url), 'utf8'));

const folds = new Map();
const patterns = new Map([...'\\^$.[]|()?*+{}'].map((special) => [special, `\\${special}`]));
for (const members of classes) {
  const [first, ...others] = members; // by code points, like everything here
  for (const other of others) folds.set(other, first);
  patterns.set(first, `[${members}]`);
}

const mapped = (text, table) => Array.from(text, (character) => table.get(character) ?? character).join('');

/** Fold a text, character by character. Folding twice changes nothing more. ASCII folds as with toLowerCase(). */
export const fold = (text) => mapped(text, folds);

/** A pattern for `$regex`, without the option `i`. On every MongoDB it finds exactly the names that match the key. */
export const pattern = (text) => mapped(fold(text), patterns);

/** A condition on a field: it is text and contains `text`, ignoring case. Arrays of texts are not found. */
export const condition = (text) => ({ $regex: pattern(text), $type: 'string', $not: { $type: 'array' } });

const escapes = { '{': '%7B', '}': '%7D', '%': '%25' };

/** Escape braces, which would move the metadata's hash tag, and percent signs that could be read as an escape. */
export const escapeBraces = (text) => text.replace(/[{}]|%(?=7B|7D|25)/g, (character) => escapes[character]);

/** Throw for every text that the Python side refuses. */
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
