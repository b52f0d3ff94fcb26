// Keeps the files of this page, so that it works offline. Another export has another version, which
// is loaded in the background and takes effect when the page is opened again.

// Other pages of the same host have caches of their own, which are left alone.
const OURS = `vitsd ${self.registration.scope} `;
const VERSION = `${OURS}@VERSION@`;
const FILES = [@FILES@];
const BUILDS = [@BUILDS@]; // of LiteRT.js: a browser uses one of the two

self.addEventListener("install", (event) => {
  event.waitUntil(keepFiles());
  self.skipWaiting();
});

self.addEventListener("activate", (event) => {
  event.waitUntil(removeOthers().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET") event.respondWith(answer(event.request));
});

async function keepFiles() {
  const used = await Promise.all(BUILDS.map((file) => caches.match(file))); // by earlier versions
  const files = [...FILES, ...BUILDS.filter((_, i) => used[i])];
  const cache = await caches.open(VERSION);
  await cache.addAll(files.map((file) => new Request(file, { cache: "no-cache" })));
}

async function answer(request) {
  const cache = await caches.open(VERSION);
  const wanted = request.mode === "navigate" ? "./" : request;
  const kept = await cache.match(wanted, { ignoreSearch: true });
  if (kept) return kept;
  const response = await fetch(request);
  if (response.ok) await cache.put(request, response.clone());
  return response;
}

async function removeOthers() {
  const old = (await caches.keys()).filter((name) => name.startsWith(OURS) && name !== VERSION);
  await Promise.all(old.map((name) => caches.delete(name)));
}
