// What the page shows. Names come from outside, so they are only ever set as text.

const MANY = 12; // classes from which on they can be searched
const MOST = 500; // that are listed at once

const part = (id) => document.getElementById(id);

/** The headline of the answer, which screen readers say, and a line below it. */
export function say(text, detail = "", kind = "") {
  part("result").className = kind;
  part("answer").textContent = text;
  part("detail").textContent = detail;
}

/** Take away the answer to an earlier image. */
export function clear() {
  part("classes").hidden = true;
  part("time").textContent = "";
}

/** Show an answer; see `classify` in answers.js. */
export function showAnswer({ known, predictions, note }) {
  const [best] = predictions;
  if (known) say(best.label, `I am ${percent(best.probability)} sure.`);
  else say("I don't know", "Nothing that I know is likely enough. The nearest are:", "unknown");
  part("classes").replaceChildren(...predictions.map(classRow));
  part("classes").hidden = false;
  part("time").textContent = note;
}

/** Show the image; where the browser can't, only say so. */
export function showImage(image) {
  const preview = part("preview");
  URL.revokeObjectURL(preview.src);
  preview.alt = image.name ? `Your picture, ${image.name}` : "Your picture";
  preview.onload = () => {
    preview.classList.toggle("small", preview.naturalWidth < 100);
    preview.hidden = false;
  };
  preview.onerror = () => {
    preview.hidden = true;
  };
  preview.src = URL.createObjectURL(image);
  part("hint").textContent = "Drop the next picture here, or paste one.";
}

/** Let the user choose among models, if there are several. */
export function offerModels(models) {
  const options = models.map((model) => new Option(model.name, model.name, model.default, model.default));
  part("model").replaceChildren(...options);
  part("model-choice").hidden = models.length < 2;
}

/** What a model knows, and what it is. */
export function describeModel(model) {
  part("knows-count").textContent = `What it knows: ${model.classes.length} things`;
  part("search-label").hidden = model.classes.length < MANY;
  part("search").value = "";
  part("search").oninput = () => listClasses(model.classes, part("search").value);
  listClasses(model.classes, "");
  part("facts").replaceChildren(...facts(model));
  part("warning").textContent = model.warning ?? "";
  part("about").hidden = false;
}

function listClasses(classes, wanted) {
  const word = wanted.trim().toLowerCase();
  const found = classes.filter((name) => name.toLowerCase().includes(word));
  part("known").replaceChildren(...found.slice(0, MOST).map((name) => element("li", name)));
  const more = found.length - MOST;
  const count = found.length ? `${found.length} found.` : "It knows nothing of this name.";
  part("known-more").textContent = more > 0 ? `And ${more} more.` : word ? count : "";
}

function facts(model) {
  const [height, width, channels] = model.input_size;
  const rows = [
    ["Name", model.name],
    ["Version", model.version],
    ["Looks at", `${width} × ${height} pixels, ${channels === 1 ? "gray" : "color"}`],
    ["Right answers", model.test_top1 == null ? "" : `${percent(model.test_top1)} of test images`],
    ["Says “I don't know”", model.min_confidence ? `below ${percent(model.min_confidence)}` : "never"],
    ["Quantization", model.quantization === "none" ? "none (float32)" : model.quantization],
    ["SHA-256", model.sha256],
    ["Checked", model.checked],
  ];
  return rows.filter(([, text]) => text).flatMap(([name, text]) => [element("dt", name), element("dd", text)]);
}

function classRow({ label, probability }) {
  const bar = element("div", "", "bar");
  const filled = element("span");
  filled.style.width = `${100 * probability}%`;
  bar.append(filled);
  const row = element("li");
  row.append(element("span", label), element("span", percent(probability), "percent"), bar);
  return row;
}

function element(name, text = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = kind;
  return made;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
