// Photos in, answers out. All text of the server is set as text, never as HTML.

const AT_ONCE = 4; // requests; the server has two workers or more
const SHRINK_ABOVE = 1_500_000; // bytes
const LONG_SIDE = 2048; // pixels after shrinking; the model sees 224
const STILL_WAITING = 4_000; // ms
const PATIENCE = 60_000; // ms; the gateway answers in half of that, after the upload
const SLOWEST = 25; // bytes per ms of all uploads together

const PHOTO = // in a folder
  /^[^.].*\.(a?png|avifs?|bmp|gif|hei[cf]s?|hif|jfif|jpe|jpe?g|mpo|tiff?|webp)$/i;
const LOST = "The file can't be read: it was moved, deleted or changed. Choose it again.";

const $ = (selector, root = document) => root.querySelector(selector);
const grid = $("#grid");
const examples = document.querySelectorAll("[data-example]");
const cards = []; // {name, photo, note, answer}
const waiting = []; // functions that ask
let running = 0;
let known = {}; // the default version, and its threshold of the confidence for `certain`

function add(files) {
  for (const file of files) addPhoto(file, file.name || "pasted photo");
}

// What was dropped or pasted. The browser forgets it after the event: all is asked for at once.
async function take(data) {
  const given = [...data.items]
    .filter(({ kind }) => kind === "file")
    .map((item) => ({ file: item.getAsFile(), entry: item.webkitGetAsEntry?.() }));
  tell(given.length ? "" : "Only files can be dropped or pasted. Save the picture, then drop its file here.");
  for (const { file, entry } of given) {
    if (entry?.isDirectory) await addFolder(entry);
    else if (file) add([file]);
  }
}

async function addFolder(folder) {
  let photos = 0;
  try {
    for await (const { file, path } of photosIn(folder)) {
      addPhoto(file, path);
      photos += 1;
    }
    if (!photos) tell(`The folder ${folder.name} contains no photos.`);
  } catch {
    tell(`The folder ${folder.name} can't be read completely. Choose its photos instead.`);
  }
}

async function* photosIn(folder) {
  for (const entry of await entriesOf(folder)) {
    if (entry.isDirectory) yield* photosIn(entry);
    else if (PHOTO.test(entry.name)) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      yield { file, path: entry.fullPath.slice(1) };
    }
  }
}

// A reader gives some entries at a time, a hundred in Chromium, and at last none.
async function entriesOf(folder) {
  const reader = folder.createReader();
  const entries = [];
  let some;
  do {
    some = await new Promise((done, failed) => reader.readEntries(done, failed));
    entries.push(...some);
  } while (some.length);
  return entries.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
}

function tell(text) {
  $("#message").textContent = text;
  if (text) $("#message").scrollIntoView({ block: "nearest" }); // answers may fill the window
}

function addPhoto(file, name) {
  const element = $("#card").content.firstElementChild.cloneNode(true);
  const card = { name, file, element, photo: null, note: "", answer: null };
  cards.push(card);
  grid.append(element);
  const picture = $("img", element);
  card.url = URL.createObjectURL(file);
  picture.alt = `Photo ${name}`;
  picture.onerror = () => { picture.hidden = true; }; // a browser shows no HEIC, but the server opens it
  picture.src = card.url;
  $("h3", element).textContent = name;
  $(".copy", element).onclick = (event) => copyCurl(card, event.target);
  $(".again", element).onclick = () => askLater(card);
  $(".explain", element).onclick = () => explainNext(card);
  askLater(card);
  count();
}

function askLater(card) {
  $(".again", card.element).hidden = true;
  say(card, "Waiting …");
  waiting.push(() => ask(card));
  next();
}

// Somebody looks at this card, so it doesn't wait for the other photos.
function explainNext(card) {
  if (card.map) {
    toggleMap(card);
    return;
  }
  $(".explain", card.element).disabled = true;
  waiting.unshift(() => explain(card));
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    waiting.shift()().finally(() => {
      running -= 1;
      next();
    });
  }
}

async function ask(card) {
  say(card, "Classifying …");
  const patient = setTimeout(() => say(card, "Still waiting for the server …"), STILL_WAITING);
  try {
    card.photo ??= await shrunk(card);
    const started = performance.now();
    const answer = await send("predict", card.photo);
    const json = await answer.json().catch(() => ({})); // a proxy's error is a page
    card.milliseconds = Math.round(performance.now() - started);
    if (answer.ok) showAnswer(card, json);
    else showError(card, json.message, answer.status);
  } catch (error) {
    const lost = !(await readable(card.photo ?? card.file));
    showError(card, lost ? LOST : unanswered(error), lost ? null : 0);
  } finally {
    clearTimeout(patient);
    count();
  }
}

function unanswered(error) {
  return error.name === "TimeoutError"
    ? "The server took too long. Try again in a moment."
    : "The server can't be reached. Check the connection and try again.";
}

// The error of `fetch` is the same for a server that is away and for a file that is.
function readable(file) {
  const some = file.size ? file.slice(0, 1) : file; // Chromium gives a lost file the size 0
  return some.arrayBuffer().then(() => true, () => false);
}

function send(path, photo, accept = "application/json") {
  const headers = { Accept: accept, "Content-Type": "application/octet-stream" };
  if (key()) headers["X-API-Key"] = key();
  const patience = PATIENCE + (photo.size * AT_ONCE) / SLOWEST;
  return fetch(path, { method: "POST", body: photo, headers, signal: AbortSignal.timeout(patience) });
}

// Without what may have been pasted with it; `fetch` fails for a header with such characters.
function key() {
  return $("#key").value.replace(/[^\w-]/g, "");
}

// A large photo in less bytes: upright, for the browser applies EXIF's orientation as it decodes.
async function shrunk(card) {
  if (card.file.size <= SHRINK_ABOVE) return card.file;
  let bitmap;
  try {
    bitmap = await createImageBitmap(card.file, { imageOrientation: "from-image" });
  } catch {
    return card.file; // what the browser can't open, the server may
  }
  const scale = Math.min(1, LONG_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // as the server lays transparency over white
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const small = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
  if (!small || small.size >= card.file.size) return card.file;
  card.note = `shrunk from ${megabytes(card.file.size)} to ${megabytes(small.size)} MB before upload`;
  return small;
}

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(1);
}

function showAnswer(card, answer) {
  card.answer = answer;
  card.error = null;
  card.element.classList.remove("wrong");
  say(card, answer.certain ? sentence(answer.label) : `Not sure; perhaps ${answer.label}`);
  const bars = Object.entries(answer.probabilities).map(([name, share]) => {
    const bar = $("#bar").content.firstElementChild.cloneNode(true);
    $(".name", bar).textContent = name;
    $("meter", bar).value = share;
    $("meter", bar).setAttribute("aria-label", name);
    $(".share", bar).textContent = `${(100 * share).toFixed(1)} %`;
    return bar;
  });
  $(".bars", card.element).replaceChildren(...bars);
  const isSure = answer.model_version === known.version && answer.confidence >= known.threshold;
  const strange = isSure && !answer.certain && "unlike the photos that the model knows";
  const about = [strange, `${card.milliseconds} ms`, `model ${answer.model_version}`, card.note];
  $(".about", card.element).textContent = about.filter(Boolean).join(" · ");
  $(".explain", card.element).hidden = false;
}

function showError(card, message, status) {
  card.answer = null;
  card.error = message || `status ${status}`; // of a proxy
  card.element.classList.add("wrong");
  const known = { 401: "The API key is missing or wrong. Enter it above, then try again." };
  const tooLarge = status === 413 && "the photo is too large; send a smaller copy";
  say(card, known[status] ?? sentence(message || tooLarge));
  if (status === 401) $("#access").open = true;
  $(".bars", card.element).replaceChildren();
  $(".about", card.element).textContent = card.note;
  $(".explain", card.element).hidden = true;
  // Sending a photo that can't be opened once more changes nothing.
  $(".again", card.element).hidden = ![0, 401, 408, 429, 502, 503, 504].includes(status);
}

function sentence(message) {
  const text = String(message || "The server gave no reason.");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

async function explain(card) {
  try {
    const answer = await send("explain", card.photo, "image/png");
    if (!answer.ok) {
      const { message } = await answer.json().catch(() => ({}));
      unexplained(card, sentence(message));
      return;
    }
    card.map = URL.createObjectURL(await answer.blob());
    toggleMap(card);
  } catch (error) {
    unexplained(card, (await readable(card.photo)) ? unanswered(error) : LOST);
  } finally {
    $(".explain", card.element).disabled = false;
  }
}

function unexplained(card, reason) {
  $(".about", card.element).textContent = `No heat map. ${reason}`;
}

function toggleMap(card) {
  const picture = $("img", card.element);
  const show = picture.src !== card.map;
  picture.hidden = false;
  picture.src = show ? card.map : card.url;
  picture.alt = show ? `Photo ${card.name} with a heat map: red parts support the answer` : `Photo ${card.name}`;
  $(".explain", card.element).textContent = show ? "Show photo" : "Show heat map";
}

function curl(card) {
  const quoted = `'${card.name.replaceAll("'", "'\\''")}'`;
  const header = key() ? ' -H "X-API-Key: $KEY"' : "";
  return `curl${header} --data-binary @${quoted} ${new URL("predict", location.href).href}`;
}

async function copyCurl(card, button) {
  try {
    await navigator.clipboard.writeText(curl(card));
    button.textContent = "Copied";
  } catch { // no clipboard without HTTPS, but on localhost
    button.replaceWith(Object.assign(document.createElement("code"), { textContent: curl(card) }));
  }
}

function download() {
  const quoted = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  // A cell that begins like a formula is kept from being one.
  const safe = (name) => (/^[=+\-@\t\r]/.test(name) ? `'${name}` : name);
  const head = ["file", "label", "confidence", "certain", "model_version", "error"];
  const rows = cards.map(({ name, answer, error }) => [
    safe(name), answer?.label, answer?.confidence, answer?.certain, answer?.model_version, error,
  ]);
  const text = [head, ...rows].map((row) => row.map(quoted).join(",")).join("\r\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text + "\r\n"], { type: "text/csv" }));
  link.download = "catsdogs.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

// The model may have been trained on other classes than those that the page's own words name.
async function askForClasses() {
  try {
    const [model] = await (await fetch("model/info")).json();
    const { classes, threshold } = model.customizedMetadata;
    known = { version: model.modelVersion, threshold };
    const choice = `${classes.slice(0, -1).join(", ")} or ${classes.at(-1)}?`;
    const question = classes.length > 5 ? `Which of ${classes.length} classes?` : sentence(choice);
    document.title = $("h1").textContent = question;
    for (const button of examples) button.hidden = !classes.includes(button.dataset.class);
  } catch { // its own words stay
  }
}

function say(card, text) {
  $(".verdict", card.element).textContent = text;
}

function count() {
  const done = cards.filter(({ answer, error }) => answer || error).length;
  $("#count").textContent = cards.length ? `${done} of ${cards.length} answered` : "";
  $("#csv").disabled = !done;
  $("#clear").disabled = done < cards.length || !done;
}

function clear() {
  for (const { url, map } of cards) for (const address of [url, map]) URL.revokeObjectURL(address);
  cards.length = 0;
  waiting.length = 0;
  grid.replaceChildren();
  tell("");
  count();
}

for (const input of [$("#files"), $("#camera")]) {
  input.onchange = () => {
    tell("");
    add(input.files);
    input.value = ""; // the same file again is a change, too
  };
}
for (const button of examples) {
  button.onclick = async () => {
    tell("");
    try {
      const answer = await fetch(button.dataset.example);
      addPhoto(await answer.blob(), button.dataset.example.split("/").pop());
    } catch {
      tell("The example can't be loaded. Check the connection and try again.");
    }
  };
}
$("#access form").onsubmit = (event) => {
  event.preventDefault();
  for (const button of document.querySelectorAll(".again:not([hidden])")) button.click();
};
$("#csv").onclick = download;
$("#clear").onclick = clear;

const drop = $("#drop");
addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer);
});
addEventListener("paste", (event) => {
  if (event.target !== $("#key")) take(event.clipboardData);
});
askForClasses();
