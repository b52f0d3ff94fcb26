// What LiteRT.js needs of its package @litertjs/wasm-utils: a script of Emscripten's, and what it makes.

export async function createWasmLib(Library, url) {
  await new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${url} can't be loaded. Is all of the folder there?`));
    document.head.append(script);
  });
  return new Library(await self.ModuleFactory());
}
