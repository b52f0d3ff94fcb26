// From an image, however it comes, to its answer.

import * as answers from "./answers.js";
import { clear, describeModel, offerModels, say, showAnswer, showImage } from "./view.js";

const PATIENCE = 5; // times that a busy server is asked again

const part = (id) => document.getElementById(id);
let models = [];
let image = null; // the newest one
let running = new AbortController();

async function start() {
  part("where").textContent = answers.WHERE;
  say("Loading …", answers.LOADING);
  try {
    models = await answers.describe();
  } catch (error) {
    return fail(error, start);
  }
  offerModels(models);
  describeModel(chosen());
  if (image) return answer();
  say("Ready", "Give me a picture.");
}

async function answer() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  clear();
  if (!models.length) return;
  say("Looking …");
  try {
    const found = await patiently(() => answers.classify(image, chosen().name, signal), signal);
    if (!signal.aborted) showAnswer(found);
  } catch (error) {
    if (!signal.aborted) fail(error, answer);
  }
}

/** Ask a server that has no time right now again, when it says. */
async function patiently(ask, signal) {
  for (let times = 1; ; times += 1) {
    try {
      return await ask();
    } catch (error) {
      if (error.status !== 503 || times === PATIENCE || signal.aborted) throw error;
      say("Waiting …", "The server has much to do; I ask again.");
      await new Promise((done) => setTimeout(done, 1000 * (error.retryAfter || 1)));
    }
  }
}

function fail(error, again) {
  part("token-form").hidden = error.status !== 401;
  if (error.status === 401) {
    say("A token is needed", "Whoever runs this server can tell you.");
    part("token").focus();
    part("token-form").onsubmit = (event) => {
      event.preventDefault();
      answers.useToken(part("token").value);
      part("token").value = "";
      part("token-form").hidden = true;
      again();
    };
  } else {
    say("That did not work", error.message, "failed");
  }
}

function take(files) {
  if (!files.length) return say("That was no picture", "Give me an image file.", "failed");
  [image] = files;
  showImage(image);
  answer();
}

const chosen = () => models.find((model) => model.name === part("model").value);

for (const id of ["file", "camera"]) {
  part(id).onchange = () => {
    if (part(id).files.length) take([...part(id).files]); // else the user has thought better of it
    part(id).value = ""; // so that the same file can be chosen again
  };
}
part("model").onchange = () => {
  describeModel(chosen());
  if (image) answer();
};
document.onpaste = (event) => {
  const { files } = event.clipboardData;
  if (files.length) take(files);
};
document.ondragover = (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
};
document.ondragleave = (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
};
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  take(event.dataTransfer.files);
};

start();
