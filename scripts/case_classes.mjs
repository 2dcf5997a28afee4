// Prints, as JSON, the classes of characters that JavaScript's regular expressions treat as equal under the flags `iu`.
// ECMAScript defines this as simple case folding (C and S of Unicode's CaseFolding.txt), here in the Unicode version of
// this Node.js. generate_fold.py runs this script.

const isSurrogate = (code) => code >= 0xd800 && code <= 0xdfff;
const one = (text) => ([...text].length === 1 ? text : null);

// A character with another case changes under some case mapping. So the search below needs only 3,000 characters.
const cased = [];
for (let code = 1; code <= 0x10ffff; code += 1) {
  const character = String.fromCodePoint(code);
  if (!isSurrogate(code) && /\p{Changes_When_Casemapped}/u.test(character)) cased.push(character);
}
const all = cased.join('');

const classes = new Set();
const lower = {};
for (const character of cased) {
  const members = all.match(new RegExp(character, 'giu'));
  if (members.length > 1) classes.add(members.join(''));
  const mapped = one(character.toLowerCase());
  if (mapped !== null && mapped !== character) lower[character] = mapped;
}

process.stdout.write(JSON.stringify({ unicode: process.versions.unicode, classes: [...classes], lower }));
