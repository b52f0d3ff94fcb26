// Keeps the files of this page, so that it works offline. Another export has another version, which
// is loaded in the background and takes effect when the page is opened again.

// Other pages of the same host, also below this one, and their caches are left alone.
const OURS = `vitsd ${self.registration.scope} `;
const VERSION = `${OURS}@VERSION@`;
// By their digests, files of a host that is just being given another export are told from ours.
const FILES = @FILES@;
const BUILDS = @BUILDS@; // of LiteRT.js: a browser uses one of the two
const INDEX = new URL("index.html", self.registration.scope).href; // kept as ./
const ADDRESSES = new Set(
  [...Object.keys(FILES), ...Object.keys(BUILDS), INDEX].map((file) => {
    return new URL(file, self.registration.scope).href;
  }),
);

self.addEventListener("install", (event) => {
  event.waitUntil(keepFiles());
  self.skipWaiting();
});

self.addEventListener("activate", (event) => {
  event.waitUntil(removeOthers().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const [address] = url.split(/[?#]/, 1);
  if (method === "GET" && ADDRESSES.has(address)) {
    event.respondWith(answer(event.request, address === INDEX ? "./" : address));
  }
});

async function keepFiles() {
  const files = Object.entries(FILES);
  for (const build of Object.entries(BUILDS)) {
    if (await caches.match(build[0])) files.push(build); // an earlier version used it
  }
  const cache = await caches.open(VERSION);
  await cache.addAll(
    files.map(([file, integrity]) => new Request(file, { cache: "no-cache", integrity })),
  );
}

async function answer(request, address) {
  const cache = await caches.open(VERSION);
  const kept = await cache.match(address);
  if (kept) return kept;
  const response = await fetch(request);
  if (response.status === 200) {
    await cache.put(address, response.clone()).catch(() => {}); // there may be no room
  }
  return response;
}

async function removeOthers() {
  const old = (await caches.keys()).filter((name) => name.startsWith(OURS) && name !== VERSION);
  await Promise.all(old.map((name) => caches.delete(name)));
}
