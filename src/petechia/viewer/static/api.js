// Requests to the server. Its answers are data: the page shows them as text, never as markup.

const TRIES = 6; // of a request while the viewer is busy
const LONGEST = 30; // seconds between two tries

// Sentences for answers without one of their own, for what lies between the page and the viewer may answer too.
const SENTENCES = {
  401: "The viewer no longer knows this browser. If it was started again, open the address that petechia serve printed.",
  408: "The viewer waited too long for this request; try again.",
  413: "This is more than the viewer takes.",
  429: "The viewer is busy with other readers; try again in a moment.",
  502: "The viewer does not answer; is petechia serve still running?",
  503: "The viewer is busy; try again in a moment.",
  504: "The viewer took too long to answer; try again.",
};

let waiting = () => {};

// `show` is called with a sentence while a request waits because the viewer is busy, and with "" when it goes on.
export function whileBusy(show) { waiting = show; }

const pause = (seconds, signal) => new Promise((resolve, reject) => {
  signal?.throwIfAborted();
  const timer = setTimeout(resolve, 1000 * seconds);
  signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); });
});

// Seconds to wait before another try. They differ a little between readers, so that not all of them come back at once.
function patience(response, tries) {
  const asked = Number(response.headers.get("Retry-After"));
  return Math.min(Math.max(asked || 0, 2 ** tries), LONGEST) * (1 + Math.random() / 4);
}

async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch (problem) {
    if (options?.signal?.aborted) throw problem;
    throw new Error("The viewer does not answer; is petechia serve still running?");
  }
}

async function reach(path, options) {
  let response = await send(path, options);
  try {
    for (let tries = 0; (response.status === 429 || response.status === 503) && tries < TRIES; tries++) {
      const seconds = patience(response, tries);
      waiting(`The viewer is busy with other readers. Trying again in ${Math.ceil(seconds)} s …`);
      await pause(seconds, options?.signal);
      response = await send(path, options);
      waiting("");
    }
  } finally { waiting(""); }
  if (response.ok) return response;
  let detail = SENTENCES[response.status] ?? `The viewer answered with status ${response.status}.`;
  try { detail = String((await response.json()).detail); } catch { /* there is no sentence, only the status */ }
  throw new Error(detail);
}

const post = (body, type, signal) => ({ method: "POST", headers: { "Content-Type": type }, body, signal });
const ask = (asked, signal) => post(JSON.stringify(asked), "application/json", signal);

export const session = async () => (await reach("/api/session")).json();
export const openTest = async (position) => (await reach(`/api/test/${position}`)).json();
export const upload = async (file) => (await reach("/api/images", post(file, "application/octet-stream"))).json();
export const openPacs = async (wanted) => (await reach("/api/pacs", ask(wanted))).json();
// Grey levels in 16 bits, or red, green and blue in 8 bits each.
export const levels = async ({ image, colour }) =>
  new (colour ? Uint8Array : Uint16Array)(await (await reach(`/api/images/${image}/levels`)).arrayBuffer());
// `signal` ends the request when the answer is no longer wanted, and with it the work of the viewer.
export const screen = async (asked, signal) => (await reach("/api/screen", ask(asked, signal))).json();
export const explain = async (asked) => (await reach("/api/explain", ask(asked))).json();
