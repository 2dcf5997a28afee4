// Publishes events to cachekeeper's HTTP door, with `fetch` alone. As a program it publishes the events that it reads:
//
//   echo '[{"type": "user.deleted", "data": {"user_id": "42"}}]' | node publish.mjs
//
// The rules for services like this one:
// - Publish after MongoDB has acknowledged the change, with write concern majority.
// - 202 means that the broker has all the events. After any other answer, or a timeout, it may have some of them: send
//   the same events again. This does no harm, as long as the events keep their ids.
// - After a 4xx (except 408), do not send the same request again: the events, the key or the address are wrong.

import { setTimeout as pause } from 'node:timers/promises';

const ANSWER_LIMIT_MS = 10_000; // the door needs at most CACHEKEEPER_PUBLISH_TIMEOUT_SECONDS for each message
const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 5_000;

/** The door refused these events; `errors` names the wrong events and their wrong fields. */
export class Refused extends Error {
  constructor({ status, detail, errors = [] }) {
    const named = errors.map(({ index, field, detail: what }) => `\n  event ${index}, ${field}: ${what}`);
    super(`${status}: ${detail}${named.join('')}`);
    this.status = status;
    this.errors = errors;
  }
}

/** Return CloudEvents, each with a new id. An event keeps its id when it is sent again. */
export function cloudEvents(source, events) {
  const time = new Date().toISOString();
  return events.map(({ type, data }) => ({ specversion: '1.0', id: crypto.randomUUID(), source, type, time, data }));
}

/** Publish events. Returns when the broker has all of them.
 *
 * @param door `{ url, key }`: where `cachekeeper serve` listens, and one of its CACHEKEEPER_HTTP_API_KEYS
 * @param events the result of `cloudEvents`
 * @param patienceMs how long to retry while the door or its broker is unavailable
 * @returns {Promise<number>} the number of events
 * @throws {Refused} the door refused the request; nothing was published
 */
export async function publish({ url, key }, events, patienceMs = 30_000) {
  const deadline = Date.now() + patienceMs;
  for (let wait = FIRST_PAUSE_MS; ; wait = Math.min(2 * wait, LONGEST_PAUSE_MS)) {
    const { accepted, problem, retryAfterMs } = await once(url, key, events);
    if (accepted !== undefined) return accepted;
    const next = Math.max(retryAfterMs, wait * (0.5 + Math.random() / 2)); // random: services must not retry together
    if (Date.now() + next > deadline) throw new Error(`not published within ${patienceMs} ms: ${problem}`);
    await pause(next);
  }
}

async function once(url, key, events) {
  let response;
  let body;
  try {
    response = await fetch(new URL('/events', url), {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/cloudevents-batch+json' },
      body: JSON.stringify(events),
      signal: AbortSignal.timeout(ANSWER_LIMIT_MS),
    });
    body = await response.text();
  } catch (error) {
    return { problem: error.cause?.code ?? error.name, retryAfterMs: 0 }; // no answer
  }
  if (response.status === 202) return { accepted: JSON.parse(body).accepted };
  if (response.status < 500 && response.status !== 408) throw new Refused(JSON.parse(body));
  const seconds = Number(response.headers.get('retry-after') ?? 0);
  return { problem: `status ${response.status}`, retryAfterMs: 1000 * (Number.isFinite(seconds) ? seconds : 0) };
}

if (process.argv[1] === import.meta.filename) {
  let text = '';
  for await (const chunk of process.stdin) text += chunk;
  const door = { url: process.env.DOOR_URL ?? 'http://127.0.0.1:8080', key: process.env.DOOR_KEY };
  console.log(await publish(door, cloudEvents('/examples/node', JSON.parse(text))));
}
