// Shows a picture by its tiles, asks the server about it, and lays importance, fate and evidence over it.
"use strict";

const element = (id) => document.getElementById(id);
const state = { model: "", scene: null, tiles: null, turns: [], shown: null };

const viewer = OpenSeadragon({
  element: element("viewer"),
  showNavigationControl: false,
  showNavigator: true,
  navigatorPosition: "TOP_RIGHT",
  maxZoomPixelRatio: 8,
  gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
  loadTilesWithAjax: true,
});
// For the console of the browser, and the test.
window.batViewer = viewer;

function headers() {
  const key = sessionStorage.getItem("key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

// Call the server; an answer that is an error becomes an exception with its message.
async function call(path, options = {}) {
  const reply = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  const body = await reply.json();
  if (reply.status === 401) element("keyform").hidden = false;
  if (!reply.ok) throw new Error(body.error.message);
  return body;
}

// Run something that takes time: say so, and say what went wrong.
async function busy(words, work) {
  const status = element("status");
  status.className = "";
  status.textContent = words;
  try {
    const result = await work();
    status.textContent = "";
    return result;
  } catch (error) {
    status.className = "error";
    status.textContent = error.message;
    return null;
  } finally {
    element("send").disabled = !state.scene;
  }
}

async function begin() {
  await busy("", async () => {
    state.model = (await call("v1/models")).data[0].id;
    element("model").textContent = `Answers by ${state.model}`;
    element("keyform").hidden = true;
    await listScenes();
  });
}

async function listScenes() {
  const list = element("scenes");
  const known = (await call("v1/scenes")).data;
  list.replaceChildren(new Option("known to the server ...", ""), ...known.map((scene) => new Option(scene.name, scene.id)));
  list.value = state.scene ? state.scene.id : "";
  list.hidden = !known.length;
}

async function sendPicture(file) {
  await busy(`Sending and reading ${file.name} ...`, async () => {
    const form = new FormData();
    form.append("file", file);
    await openScene(await call("v1/scenes", { method: "POST", body: form }));
    await listScenes();
  });
}

// Show a picture; resolves when the viewer has it.
async function openScene(scene) {
  const tiles = await call(`v1/scenes/${scene.id}/tiles`);
  state.scene = scene;
  state.tiles = tiles;
  element("drop").hidden = true;
  element("viewer").classList.remove("empty");
  const size = `${scene.width} × ${scene.height} pixels`;
  element("about").textContent = [scene.name, size, scene.note].filter(Boolean).join("; ");
  showResult(null);
  viewer.setAjaxHeaders(headers());
  const opened = new Promise((resolve) => viewer.addOnceHandler("open", resolve));
  viewer.open({
    width: tiles.width,
    height: tiles.height,
    tileSize: tiles.tile_size,
    maxLevel: tiles.max_level,
    getTileUrl: (level, x, y) => `v1/scenes/${scene.id}/tiles/${level}/${x}/${y}`,
  });
  await opened;
}

// The messages of a question: with the turns before about the same picture if that is wanted.
function messages(question) {
  const before = element("followup").checked ? state.turns.filter((turn) => turn.scene.id === state.scene.id) : [];
  const said = before.flatMap((turn) => [
    { role: "user", content: turn.question },
    { role: "assistant", content: turn.answer },
  ]);
  const picture = { type: "image_url", image_url: { url: state.scene.url } };
  return [...said, { role: "user", content: [{ type: "text", text: question }, picture] }];
}

async function ask(question) {
  element("send").disabled = true;
  const scene = state.scene;
  const reply = await busy("Looking ...", () =>
    call("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        model: state.model,
        messages: messages(question),
        bat: { evidence: "picture", layers: true },
      }),
    }),
  );
  if (!reply) return;
  const [layers, evidence] = [reply.bat.layers[0], reply.bat.evidence[0]];
  const turn = { scene, question, answer: reply.choices[0].message.content, layers, evidence };
  state.turns.push(turn);
  addToHistory(turn);
  showResult(turn);
}

function addToHistory(turn) {
  const button = document.createElement("button");
  const answer = document.createElement("b");
  answer.textContent = turn.answer || "(nothing)";
  button.type = "button";
  button.append(turn.question, answer);
  button.addEventListener("click", async () => {
    await busy("", async () => {
      if (!state.scene || state.scene.id !== turn.scene.id) await openScene(turn.scene);
      showResult(turn);
    });
  });
  const item = document.createElement("li");
  item.append(button);
  turn.button = button;
  element("history").prepend(item);
  element("earlier").hidden = false;
}

function showResult(turn) {
  state.shown = turn;
  element("result").hidden = !turn;
  for (const other of state.turns) other.button.setAttribute("aria-current", String(other === turn));
  if (turn) {
    element("asked").textContent = turn.question;
    element("answer").textContent = turn.answer || "(nothing)";
    const fates = turn.layers.layers.filter((layer) => layer.kind === "fate");
    const rows = fates.map(({ scale_px, counts }) => {
      const row = document.createElement("tr");
      const merged = counts.merged ? `${counts.merged} in ${counts.merged_rows}` : "0";
      for (const text of [`${scale_px} px`, counts.kept, merged, counts.dropped]) row.insertCell().textContent = text;
      return row;
    });
    element("kept").replaceChildren(...rows);
    const chosen = element("scale").value;
    const sizes = fates.map((layer) => String(layer.scale_px));
    element("scale").replaceChildren(...sizes.map((size) => new Option(`${size} px`, size)));
    element("scale").value = sizes.includes(chosen) ? chosen : sizes[sizes.length - 1];
  }
  drawOver();
}

// Lay what is chosen over the picture, in viewport coordinates: the picture is 1 wide.
function drawOver() {
  viewer.clearOverlays();
  const kind = document.querySelector("[name=kind]:checked").value;
  element("legend").replaceChildren(...legend(kind));
  if (!state.shown) return;
  const { scene, layers, evidence } = state.shown;
  const scale = Number(element("scale").value);
  const layer = layers.layers.find((item) => item.kind === kind && item.scale_px === scale);
  if (layer) {
    const image = new Image();
    image.className = "layer";
    image.alt = `${kind} of the ${scale} px view`;
    image.src = layer.png;
    image.style.opacity = element("strength").value / 100;
    const place = layers.square.map((value) => value / scene.width);
    viewer.addOverlay({ element: image, location: new OpenSeadragon.Rect(...place) });
  }
  if (element("evidence").checked) {
    const place = new OpenSeadragon.Rect(0, 0, 1, scene.height / scene.width);
    viewer.addOverlay({ element: outlines(evidence, scale, scene), location: place });
  }
}

function legend(kind) {
  const swatch = (style, text) => {
    const item = document.createElement("span");
    const mark = document.createElement("i");
    mark.className = style.startsWith("#") ? "" : style;
    if (style.startsWith("#")) mark.style.background = style;
    item.append(mark, text);
    return item;
  };
  if (kind === "importance") return [swatch("ramp", "less to more attention of the question")];
  if (kind === "fate") return [swatch("#29db6b", "kept"), swatch("#ffb214", "merged"), swatch("#0a0d17", "dropped")];
  return [];
}

// Draw the outlines of what one view gave to the language model.
function outlines(collection, scale, scene) {
  const make = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
  const svg = make("svg");
  svg.setAttribute("class", "evidence");
  svg.setAttribute("viewBox", `0 0 ${scene.width} ${scene.height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  for (const fate of ["merged", "kept"]) {
    const shapes = collection.features.filter((item) => item.properties.scale === scale && item.properties.fate === fate);
    const path = make("path");
    path.setAttribute("class", fate);
    path.setAttribute("d", shapes.map((item) => outline(item.geometry)).join(""));
    svg.append(path);
  }
  return svg;
}

function outline({ type, coordinates }) {
  const polygons = type === "Polygon" ? [coordinates] : coordinates;
  return polygons.flat().map((ring) => `M${ring.map((point) => point.slice(0, 2).join(" ")).join("L")}Z`).join("");
}

element("file").addEventListener("change", (event) => {
  if (event.target.files.length) sendPicture(event.target.files[0]);
  event.target.value = "";
});
element("scenes").addEventListener("change", (event) => {
  if (event.target.value) busy("", async () => openScene(await call(`v1/scenes/${event.target.value}`)));
});
element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = element("question").value.trim();
  if (question && state.scene) ask(question);
});
element("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    element("ask").requestSubmit();
  }
});
element("keyform").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", element("key").value);
  begin();
});
for (const input of document.querySelectorAll("fieldset input, fieldset select")) input.addEventListener("input", drawOver);
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  element("viewer").addEventListener(name, (event) => {
    event.preventDefault();
    element("viewer").classList.toggle("over", over);
    if (name === "drop" && event.dataTransfer.files.length) sendPicture(event.dataTransfer.files[0]);
  });
}
begin();
