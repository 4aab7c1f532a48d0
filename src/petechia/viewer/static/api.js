// Requests to the server. Its answers are data: the page shows them as text, never as markup.

async function reach(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The viewer does not answer; is petechia serve still running?");
  }
  if (response.ok) return response;
  let detail = `The viewer answered with status ${response.status}.`;
  try { detail = String((await response.json()).detail); } catch { /* there is no sentence, only the status */ }
  throw new Error(detail);
}

const post = (body, type) => ({ method: "POST", headers: { "Content-Type": type }, body });

export const session = async () => (await reach("/api/session")).json();
export const openTest = async (position) => (await reach(`/api/test/${position}`)).json();
export const upload = async (file) => (await reach("/api/images", post(file, "application/octet-stream"))).json();
// Grey levels in 16 bits, or red, green and blue in 8 bits each.
export const levels = async ({ image, colour }) =>
  new (colour ? Uint8Array : Uint16Array)(await (await reach(`/api/images/${image}/levels`)).arrayBuffer());
export const screen = async (asked) => (await reach("/api/screen", post(JSON.stringify(asked), "application/json"))).json();
export const explain = async (asked) => (await reach("/api/explain", post(JSON.stringify(asked), "application/json"))).json();
