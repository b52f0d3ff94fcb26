// Answers of the server that this page came from.

/** Something to tell the user: the text, and what the server said beside it. */
export class Failure extends Error {
  constructor(text, { status = 0, retryAfter = 0 } = {}) {
    super(text);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const TOKEN = "vitsd-token";

let token = null;
try {
  token = sessionStorage.getItem(TOKEN);
} catch {
  // The browser keeps nothing of this page.
}

/** Keep the server's token, for as long as this tab is open. */
export function useToken(text) {
  token = text;
  try {
    sessionStorage.setItem(TOKEN, token);
  } catch {
    // Until the page is loaded again, then.
  }
}

/** Where the model runs, for the line below the title. */
export const WHERE = "The picture is sent to this server, which does not keep it.";

/** What is said meanwhile. */
export const LOADING = "";

/** The models: name, version, default, classes, input_size, min_confidence ... of each. */
export async function describe() {
  const { models } = await request("v1/models");
  const checked = "on images with known answers, when it was loaded";
  return models.map((model) => ({ ...model, checked: model.verified && checked }));
}

/**
 * Classify one image.
 * @param {Blob} image a file.
 * @param {string} model its name.
 * @param {AbortSignal} signal stops it.
 * @returns {{known: boolean, predictions: {label: string, probability: number}[], note: string}}
 */
export async function classify(image, model, signal) {
  const start = performance.now();
  const query = new URLSearchParams({ model });
  // What it is, its content says; a file's name may be wrong.
  const headers = { "Content-Type": "application/octet-stream" };
  const options = { method: "POST", body: image, headers, signal };
  const answer = await request(`v1/predict?${query}`, options);
  const whole = Math.round(performance.now() - start);
  const own = answer.milliseconds.toFixed(1);
  return { ...answer.results[0], note: `${own} ms on the server, ${whole} ms with the way there` };
}

async function request(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server can't be reached. Is it running, and are you in its network?");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const unknown = response.ok
    ? "Something else answers in the server's place. Does this network want you to log in?"
    : `The server answers with an error (${response.status}).`;
  throw new Failure(answer?.error || unknown, {
    status: response.status,
    retryAfter: Number(response.headers.get("Retry-After")),
  });
}
