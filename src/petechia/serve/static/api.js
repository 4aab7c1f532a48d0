// Talking to the server. What it answers is data: it is shown as text, never as markup.

async function answer(response) {
  if (response.ok) return response;
  let detail = `The viewer answered ${response.status}.`;
  try { detail = String((await response.json()).detail); } catch { /* the status has to do */ }
  throw new Error(detail);
}

async function reach(path, options) {
  let response;
  try { response = await fetch(path, options); } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Error("The viewer does not answer; is petechia serve still running?");
  }
  return answer(response);
}

export const session = async () => (await reach("/api/session")).json();
export const openTest = async (position) => (await reach(`/api/test/${position}`)).json();
export const upload = async (file) => (await reach("/api/images", { method: "POST", body: file })).json();
export const levels = async (image) => new Uint16Array(await (await reach(`/api/images/${image}/levels`)).arrayBuffer());

let running = null;

// Ask about an image; a newer question makes the answer to an older one worthless.
export async function explain(question) {
  running?.abort();
  const mine = running = new AbortController();
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question), signal: mine.signal };
  const found = await (await reach("/api/explain", options)).json();
  if (mine.signal.aborted) throw new DOMException("overtaken", "AbortError");
  return found;
}
