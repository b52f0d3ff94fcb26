// Keeps the files of this page, so that it works offline. Another export has another version, which
// is loaded in the background and takes effect when the page is opened again.

// Other pages of the same host have caches of their own, which are left alone.
const OURS = `vitsd ${self.registration.scope} `;
const VERSION = `${OURS}@VERSION@`;
const FILES = [@FILES@];

self.addEventListener("install", (event) => {
  const requests = FILES.map((file) => new Request(file, { cache: "reload" }));
  event.waitUntil(caches.open(VERSION).then((cache) => cache.addAll(requests)));
  self.skipWaiting();
});

self.addEventListener("activate", (event) => {
  event.waitUntil(removeOthers().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET") event.respondWith(answer(event.request));
});

async function answer(request) {
  const cache = await caches.open(VERSION);
  const wanted = request.mode === "navigate" ? "./" : request;
  const kept = await cache.match(wanted, { ignoreSearch: true });
  if (kept) return kept;
  const response = await fetch(request);
  if (response.ok) await cache.put(request, response.clone()); // one of the two builds of LiteRT.js
  return response;
}

async function removeOthers() {
  const old = (await caches.keys()).filter((name) => name.startsWith(OURS) && name !== VERSION);
  await Promise.all(old.map((name) => caches.delete(name)));
}
