// A Node.js service beside cachekeeper: Redis first, MongoDB behind. Every function takes what `connect` returns.
//
// The rules for services like this one:
// - Only read names and searches. On a miss ask MongoDB and do NOT `SET`: your value may be stale, because an event has
//   just removed the key, and then nothing would ever remove it again.
// - You may write sessions: with NX at login and with XX from then on, so that a late save cannot bring back a session
//   that has ended. A session that is only in Redis is lost when that Redis restarts.
// - A token counts as not blocked only if Redis says so while it is *ready*, or if MongoDB says so. An error proves
//   nothing.

import mongoose from 'mongoose';
import { createClient } from 'redis';

import { checkText, condition, searchKey } from './search-key.js';

const REDIS_LIMIT_MS = 500;
const MONGODB_LIMIT_MS = 2000;
const SESSION_SECONDS = 1800;
const BLOCK_LEEWAY_MS = 60_000; // CACHEKEEPER_BLOCK_LEEWAY_SECONDS
const TEXT_LIMIT = 64; // CACHEKEEPER_TEXT_LIMIT_CHARS, in code points: longer texts are never cached

/** Connect to all servers. A Redis that is down is used when it is back; if MongoDB is down, this throws.
 *
 * @param securityMayLose true where the Redis for blocks may evict keys or is a Cluster: absence there proves nothing
 */
export async function connect({ redisUrl, securityRedisUrl = redisUrl, mongodbUrl, securityMayLose = false }) {
  const options = {
    serverSelectionTimeoutMS: MONGODB_LIMIT_MS,
    bufferCommands: false, // fail at once while MongoDB is unavailable
    autoCreate: false, // another program creates the collections
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
  // Without the offline queue a command fails at once while Redis is down, instead of waiting until it is back.
  const client = createClient({ url, disableOfflineQueue: true, socket: { connectTimeout: REDIS_LIMIT_MS } });
  client.on('error', () => {}); // the commands report it; without a listener it would end the process
  await within(REDIS_LIMIT_MS, client.connect()).catch(() => {}); // the client keeps trying
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

/** Return the plain value; or null if MongoDB must be asked, because the key is missing or Redis did not answer. */
async function cached(client, key, failed = () => {}) {
  try {
    return await within(REDIS_LIMIT_MS, client.get(key));
  } catch (error) {
    failed(error);
    return null;
  }
}

/** Return the query's result, within the limit. The server stops the query then; a server that hangs is not awaited. */
const found = (query) => within(MONGODB_LIMIT_MS, query.maxTimeMS(MONGODB_LIMIT_MS).lean());

/** Convert an id as CACHEKEEPER_ID_TYPES=auto does: to an ObjectId, a 64-bit integer, or text. */
export function documentId(id) {
  const text = String(id);
  if (/^[0-9a-f]{24}$/i.test(text)) {
    if (text !== text.toLowerCase()) throw new RangeError('id: write an ObjectId in lower case, as in the keys');
    return new mongoose.Types.ObjectId(text);
  }
  if (/^(0|-?[1-9][0-9]{0,18})$/.test(text) && BigInt.asIntN(64, BigInt(text)) === BigInt(text)) return BigInt(text);
  return text;
}

/** Return the user's name; null if the user does not exist. */
export async function readUser(stores, id) {
  const name = await cached(stores.cache, `user:${id}:name`);
  if (name !== null) return name;
  const user = await found(stores.users.findOne({ _id: documentId(id) }, { name: 1 }));
  return user?.name ?? null;
}

/** Return the session's data; null if the session does not exist, or has ended. */
export async function readSession(stores, id) {
  let away = null;
  const text = await cached(stores.security, `session:${id}`, (error) => (away = error));
  if (text !== null) return JSON.parse(text);
  const session = await found(stores.sessions.findOne({ _id: documentId(id) }));
  if (session === null && away !== null) throw away; // the session may be in Redis only
  if (session === null || session.ended_at != null || session.expires_at <= new Date()) return null;
  return JSON.parse(JSON.stringify(session.data)); // the same form as from Redis
}

/** Save a session for another half hour. With `login` it must be new; otherwise it must still exist.
 *
 * @returns {Promise<boolean>} false if it was not saved: the id is taken (`login`), or the session has ended
 */
export async function saveSession(stores, id, data, { login = false } = {}) {
  const options = { expiration: { type: 'EX', value: SESSION_SECONDS }, condition: login ? 'NX' : 'XX' };
  const answer = await within(REDIS_LIMIT_MS, stores.security.set(`session:${id}`, JSON.stringify(data), options));
  return answer === 'OK';
}

/** Return whether the token is blocked. Throws if neither Redis nor MongoDB can tell. */
export async function isBlocked(stores, tokenId) {
  const { security, securityMayLose } = stores;
  try {
    // In one MULTI, because a flush or the end of warming could come between two commands. EXISTS, because any value
    // means blocked.
    const both = security.multi().exists(`blocked:${tokenId}`).exists('cachekeeper:blocked-ready').exec();
    const [blocked, ready] = await within(REDIS_LIMIT_MS, both);
    if (blocked) return true;
    if (ready && !securityMayLose) return false;
  } catch {
    // Redis did not answer, so MongoDB is asked. If that fails too, this function throws its error.
  }
  // As text, because cachekeeper stores it so. A number would find nothing, which would mean 'not blocked'.
  const block = await found(stores.blockedTokens.findOne({ _id: String(tokenId) }));
  if (block === null) return false;
  const ends = block.expires_at; // null: never
  // Written as 'not in the past': a date beyond JavaScript's range is NaN, which is neither past nor future.
  return !(ends instanceof Date && ends.getTime() + BLOCK_LEEWAY_MS <= Date.now());
}

/** Return all products whose name contains the text, ignoring case, in the order of _id. */
export async function searchProducts(stores, text) {
  checkText(text);
  if ([...text].length <= TEXT_LIMIT) {
    const products = parsedArray(await cached(stores.cache, searchKey(text)));
    if (products !== null) return products;
  }
  const products = await found(stores.products.find({ name: condition(text) }).sort({ _id: 1 }));
  return JSON.parse(JSON.stringify(products)); // the same form as from Redis: dates as text, and so on
}

function parsedArray(text) {
  try {
    const value = JSON.parse(text);
    return Array.isArray(value) ? value : null;
  } catch {
    return null; // the value is damaged; cachekeeper's next reader repairs it
  }
}
