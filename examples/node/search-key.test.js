// node --test

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';

import { checkText, escapeBraces, fold, pattern, searchKey } from './search-key.js';

const vectors = JSON.parse(readFileSync(new URL('./fold-vectors.json', import.meta.url), 'utf8'));

function occurring(name) {
  const characters = [...name];
  const texts = new Set();
  for (let start = 0; start < characters.length; start += 1) {
    for (let stop = start + 1; stop <= characters.length; stop += 1) texts.add(characters.slice(start, stop).join(''));
  }
  return texts;
}

test('every text has the folded form, the key and the pattern that it has in Python', () => {
  assert.ok(vectors.texts.length > 40);
  for (const { text, folded, key, pattern: expected } of vectors.texts) {
    assert.deepEqual({ folded: fold(text), key: searchKey(text), pattern: pattern(text) }, { folded, key, pattern: expected });
  }
});

test('every text that occurs in a name has the key that a change of that name unlinks', () => {
  assert.ok(vectors.names.length > 5);
  for (const { name, keys } of vectors.names) {
    const ours = new Set([...occurring(fold(name))].map((text) => `search:${escapeBraces(text)}`));
    assert.deepEqual(ours, new Set(keys));
  }
});

test('what the Python side refuses is refused', () => {
  for (const bad of ['', 'a\0', '\ud800', 'x'.repeat(513), '\u00e9'.repeat(257), 5, null]) assert.throws(() => checkText(bad), /^(Type|Range)Error: text: /);
  assert.equal(checkText('\u00e9'.repeat(256)).length, 256);
});

test('ASCII folds as toLowerCase() does', () => {
  const ascii = String.fromCodePoint(...Array(128).keys());
  assert.equal(fold(ascii), ascii.toLowerCase());
});
