// What a Node.js service gets: every document of a collection, in the order of _id, through `.lean()` and
// `JSON.stringify`, each as a JSON string on a line of its own; first a line with the versions.
//
//   node read_lean.mjs URL COLLECTION

import mongoose from 'mongoose';

const [url, collection] = process.argv.slice(2);

await mongoose.connect(url);
const schema = new mongoose.Schema({ _id: mongoose.Schema.Types.Mixed }, { strict: false });
const Anything = mongoose.model('Anything', schema, collection);

const versions = { node: process.versions.node, mongoose: mongoose.version };
const documents = await Anything.find().sort({ _id: 1 }).lean();
const lines = [versions, ...documents.map((document) => JSON.stringify(document))].map((line) => JSON.stringify(line));
process.stdout.write(`${lines.join('\n')}\n`);
await mongoose.disconnect();
