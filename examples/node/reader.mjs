// A Node.js service beside cachekeeper: Redis first, MongoDB behind. Every function takes what `connect` returns.
//
// The rules for services like this one:
// - Names and searches are only read. On a miss ask MongoDB and do NOT `SET`: a blind fill can bring back a value that an
//   event has just removed, and nothing would ever remove it again.
// - Sessions may be written: with NX at login and with XX from then on, so that a late save cannot raise a session that
//   has ended. One that only Redis knows is gone when that Redis restarts.
// - A token is not blocked only if Redis says so while it is *ready*, or MongoDB says so. An error says neither.

import mongoose from 'mongoose';
import { createClient } from 'redis';

import { checkText, condition, searchKey } from './search-key.js';

const REDIS_LIMIT_MS = 500;
const MONGODB_LIMIT_MS = 2000;
const SESSION_SECONDS = 1800;
const BLOCK_LEEWAY_MS = 60_000; // CACHEKEEPER_BLOCK_LEEWAY_SECONDS
const TEXT_LIMIT = 64; // CACHEKEEPER_TEXT_LIMIT_CHARS, in code points: longer texts are never cached

/** Connect to everything. A Redis that is away is used once it is back; without MongoDB there is no start.
 *
 * @param securityMayLose true where the Redis for blocks may evict keys or is a Cluster: absence there proves nothing
 */
export async function connect({ redisUrl, securityRedisUrl = redisUrl, mongodbUrl, securityMayLose = false }) {
  const options = {
    serverSelectionTimeoutMS: MONGODB_LIMIT_MS,
    bufferCommands: false, // fail at once while MongoDB is away
    autoCreate: false, // the collections are not ours
    autoIndex: false,
  };
  const mongodb = await mongoose.createConnection(mongodbUrl, options).asPromise();
  const cache = await connectRedis(redisUrl);
  const security = securityRedisUrl === redisUrl ? cache : await connectRedis(securityRedisUrl);
  const collection = (name) => {
    const schema = new mongoose.Schema({ _id: mongoose.Schema.Types.Mixed }, { strict: false });
    return mongodb.model(name, schema, name);
  };
  return {
    cache,
    security,
    securityMayLose,
    users: collection('users'),
    products: collection('products'),
    sessions: collection('sessions'),
    blockedTokens: collection('blocked_tokens'),
    async close() {
      for (const client of new Set([cache, security])) client.destroy();
      await mongodb.close();
    },
  };
}

async function connectRedis(url) {
  // Without the offline queue a command fails at once while Redis is away, instead of waiting for its return.
  const client = createClient({ url, disableOfflineQueue: true, socket: { connectTimeout: REDIS_LIMIT_MS } });
  client.on('error', () => {}); // reported by the commands; without a listener it would end the process
  await within(REDIS_LIMIT_MS, client.connect()).catch(() => {}); // it goes on trying
  return client;
}

async function within(limit, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${limit} ms`)), limit);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** The plain value, or null where MongoDB must be asked: it is not there, or Redis is in no state to say. */
async function cached(client, key, failed = () => {}) {
  try {
    return await within(REDIS_LIMIT_MS, client.get(key));
  } catch (error) {
    failed(error);
    return null;
  }
}

/** What the query finds, within the limit: the server stops at it, and a server that hangs is not waited for. */
const found = (query) => within(MONGODB_LIMIT_MS, query.maxTimeMS(MONGODB_LIMIT_MS).lean());

/** As CACHEKEEPER_ID_TYPES=auto reads an id: ObjectId, 64-bit integer, text. */
export function documentId(id) {
  const text = String(id);
  if (/^[0-9a-f]{24}$/i.test(text)) {
    if (text !== text.toLowerCase()) throw new RangeError('id: write an ObjectId in lower case, as the keys have it');
    return new mongoose.Types.ObjectId(text);
  }
  if (/^(0|-?[1-9][0-9]{0,18})$/.test(text) && BigInt.asIntN(64, BigInt(text)) === BigInt(text)) return BigInt(text);
  return text;
}

/** The name, or null for a user who does not exist. */
export async function readUser(stores, id) {
  const name = await cached(stores.cache, `user:${id}:name`);
  if (name !== null) return name;
  const user = await found(stores.users.findOne({ _id: documentId(id) }, { name: 1 }));
  return user?.name ?? null;
}

/** The session's data, or null where it does not exist, or no longer. */
export async function readSession(stores, id) {
  let away = null;
  const text = await cached(stores.security, `session:${id}`, (error) => (away = error));
  if (text !== null) return JSON.parse(text);
  const session = await found(stores.sessions.findOne({ _id: documentId(id) }));
  if (session === null && away !== null) throw away; // a session that a login put into Redis alone is not 'absent'
  if (session === null || session.ended_at != null || session.expires_at <= new Date()) return null;
  return JSON.parse(JSON.stringify(session.data)); // as it comes from Redis
}

/** Save a session for another half hour. At `login` it must be new, later it must still be there.
 *
 * @returns {Promise<boolean>} false where it was not saved: at login the id is taken, later the session has ended
 */
export async function saveSession(stores, id, data, { login = false } = {}) {
  const options = { expiration: { type: 'EX', value: SESSION_SECONDS }, condition: login ? 'NX' : 'XX' };
  const answer = await within(REDIS_LIMIT_MS, stores.security.set(`session:${id}`, JSON.stringify(data), options));
  return answer === 'OK';
}

/** Whether the token is blocked. Where nobody can tell, it throws. */
export async function isBlocked(stores, tokenId) {
  const { security, securityMayLose } = stores;
  try {
    // In one MULTI: between two commands a flush, or the end of warming, could fall. EXISTS, since any value means blocked.
    const both = security.multi().exists(`blocked:${tokenId}`).exists('cachekeeper:blocked-ready').exec();
    const [blocked, ready] = await within(REDIS_LIMIT_MS, both);
    if (blocked) return true;
    if (ready && !securityMayLose) return false;
  } catch {
    // Redis cannot tell; MongoDB can, and where it cannot either, its error is the answer.
  }
  // As text, as cachekeeper stores it: a number would find nothing, and so mean 'free'.
  const block = await found(stores.blockedTokens.findOne({ _id: String(tokenId) }));
  if (block === null) return false;
  const ends = block.expires_at; // null: never
  // 'Not past' rather than 'in the future': a date beyond JavaScript's range is NaN, and neither.
  return !(ends instanceof Date && ends.getTime() + BLOCK_LEEWAY_MS <= Date.now());
}

/** All products whose name holds the text, without regard to case, in the order of _id. */
export async function searchProducts(stores, text) {
  checkText(text);
  if ([...text].length <= TEXT_LIMIT) {
    const products = parsedArray(await cached(stores.cache, searchKey(text)));
    if (products !== null) return products;
  }
  const products = await found(stores.products.find({ name: condition(text) }).sort({ _id: 1 }));
  return JSON.parse(JSON.stringify(products)); // dates as text and so on, as they come from Redis
}

function parsedArray(text) {
  try {
    const value = JSON.parse(text);
    return Array.isArray(value) ? value : null;
  } catch {
    return null; // damaged; cachekeeper's next reader repairs it
  }
}
