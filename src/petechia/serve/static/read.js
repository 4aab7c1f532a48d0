// The reading page: what is asked, what is shown.

import * as api from "./api.js";
import { draw as drawHeat, drawScale } from "./heat.js";
import { Scene, Viewport } from "./viewport.js";

const $ = (id) => document.getElementById(id);
const scene = new Scene();
const views = [new Viewport($("clean"), scene, false, events()), new Viewport($("triggered"), scene, true, events())];
let session, answer = null, shownOpacity = .7;

function events() {
  return { redraw, stamp, window: () => { showWindow(); repaint(); }, cursor: () => { redraw(); say(`Cursor at row ${Math.floor(scene.cursor[1])}, column ${Math.floor(scene.cursor[0])}.`); } };
}

function redraw() { for (const view of views) view.draw(); }
function repaint() { if (scene.picture) { scene.paint(); redraw(); } }
function say(text) { $("status").textContent = text; }
function complain(problem) {
  if (problem?.name === "AbortError") return;
  $("problem").textContent = problem ? problem.message : "";
  $("problem").hidden = !problem;
}
async function attempt(work) { try { complain(null); await work(); } catch (problem) { complain(problem); } }

// Sliders: what stands beside them, also for those who do not see it.
function label(id, text) { $(`${id}-value`).textContent = text; $(id).setAttribute("aria-valuetext", text); }
const network = () => session.networks[$("arm").selectedIndex];
const epoch = () => network().epochs[$("epoch").valueAsNumber];
const layer = () => session.layers[$("layer").valueAsNumber];
const target = () => $("class").valueAsNumber;
const title = (index) => session.classes[index].replaceAll("_", " ");

async function begin() {
  session = await api.session();
  $("threshold").value = session.threshold;
  $("opacity").value = scene.opacity = session.opacity;
  $("class").max = session.classes.length - 1;
  $("class").value = session.target ?? 0;
  $("layer").max = session.layers.length - 1;
  $("size").value = session.trigger.size;
  $("size").max = Math.max(64, session.trigger.size);
  $("value").value = session.trigger.value;
  for (const name of session.methods) $("method").append(new Option(name, name));
  for (const { arm, seed } of session.networks) $("arm").append(new Option(arm === "model" ? "this model" : `${arm}, seed ${seed}`));
  $("notice").textContent = session.notice;
  $("notice").hidden = !session.notice;
  $("tests").hidden = !session.tests;
  $("filter").hidden = session.target === null;
  if (session.target !== null) $("target-name").textContent = title(session.target);
  drawScale($("scale"), session.colours);
  makeScores();
  takeNetwork();
  for (const id of ["threshold", "opacity", "class", "layer", "size", "value", "epoch"]) showSlider(id);
  wire();
  if (session.tests) await openTest(session.without_target[0] ?? 0);
  else say("Open an image to begin.");
}

function takeNetwork() {
  $("epoch").max = network().epochs.length - 1;
  $("epoch").value = network().epochs.length - 1;
  $("epoch-row").hidden = network().arm === "model";
  $("arm-row").hidden = network().arm === "model";
}

function showSlider(id) {
  const texts = {
    threshold: () => $("threshold").valueAsNumber.toFixed(2),
    opacity: () => `${Math.round(100 * $("opacity").valueAsNumber)} %`,
    class: () => title(target()),
    layer,
    size: () => `${$("size").value} × ${$("size").value}`,
    value: () => $("value").value,
    epoch: () => String(epoch()),
  };
  label(id, texts[id]());
}

// Images.

async function open(found) {
  const levels = await api.levels(found.image);
  scene.show({ ...found, levels, onInput: found.unit !== 1 });
  answer = null;
  $("findings").textContent = found.findings === null ? "" : `truly shows: ${found.findings.join(", ") || "nothing"}`;
  $("attack").hidden = !found.place;
  for (const id of ["center", "width"]) {
    Object.assign($(id), { min: id === "width" ? (found.most - found.least) / 500 : found.least, max: id === "width" ? 2 * (found.most - found.least) : found.most, step: "any" });
  }
  for (const view of views) view.heat = null;
  showWindow();
  showInvert();
  repaint();
  await ask();
}

const openTest = (position) => attempt(async () => {
  const count = session.tests;
  $("position").value = position + 1;
  $("position").max = count;
  $("count").textContent = `of ${count}`;
  await open(await api.openTest(position));
});

function step(by) {
  const now = $("position").valueAsNumber - 1;
  const all = $("without").checked ? session.without_target : Array.from({ length: session.tests }, (_, i) => i);
  const next = by > 0 ? all.find((one) => one > now) ?? all[0] : all.findLast((one) => one < now) ?? all.at(-1);
  if (next !== undefined) openTest(next);
}

const openFile = (file) => attempt(async () => {
  if (!file) return;
  if (file.size > session.most_upload) throw new Error(`The file is larger than ${session.most_upload / 2 ** 20} MiB; give a smaller one.`);
  say("Reading the image …");
  await open(await api.upload(file));
});

// Stamps.

function stamp(x, y) {
  attempt(async () => {
    scene.stamps.push(scene.stampAt(x, y, $("size").valueAsNumber, $("value").valueAsNumber));
    await changed();
  });
}
function undo() { if (scene.stamps.pop()) attempt(changed); }
function clearStamps() { scene.stamps = []; attempt(changed); }
function stampAsAttacker() {
  const [row, column] = scene.picture.place;
  scene.stamps.push({ row, column, ...session.trigger });
  attempt(changed);
}
async function changed() { showStamps(); redraw(); await ask(); }

function showStamps() {
  $("undo").disabled = $("clear").disabled = !scene.stamps.length;
  $("stamps").replaceChildren(...scene.stamps.map(({ row, column, size, value }) => {
    const item = document.createElement("li");
    item.textContent = `${size} × ${size}, grey ${value}, row ${row}, column ${column}`;
    return item;
  }));
}

// Questions and answers.

let waiting = null;
// Many small moves of a slider become one question.
function askSoon() { clearTimeout(waiting); waiting = setTimeout(() => attempt(ask), 60); }

async function ask() {
  if (!scene.picture) return;
  showStamps();
  const { arm, seed } = network();
  answer = await api.explain({ image: scene.picture.image, stamps: scene.stamps, arm, seed, epoch: epoch(), target: target(), method: $("method").value });
  showAnswer();
}

function showAnswer() {
  showHeat();
  showScores();
  const stamped = answer.scores.length > 1;
  for (const [index, id] of ["seen-clean", "seen-triggered"].entries()) showSeen($(id), answer.seen[Math.min(index, answer.seen.length - 1)]);
  const pixels = answer.changed;
  $("survival").textContent = !stamped ? "no stamp yet: click an image" : pixels ? `the trigger changes ${pixels} pixel${pixels > 1 ? "s" : ""} of what the model sees` : "the trigger did not survive: the model sees no difference";
  const name = title(target()), [clean, triggered] = answer.scores.map((scores) => scores[target()].toFixed(3));
  say(stamped ? `${name}: ${clean} clean, ${triggered} triggered.` : `${name}: ${clean}.`);
}

function showHeat() {
  if (!answer) return;
  const maps = answer.maps[layer()];
  for (const [index, id] of ["clean", "triggered"].entries()) {
    const map = maps[Math.min(index, maps.length - 1)];
    views[index].heat = drawHeat(map, session.colours);
    const [rows, columns] = [map.length, map[0].length];
    $(`${id}-heat`).textContent = views[index].heat ? `${layer()} layer, ${rows} × ${columns} cells` : `No heat: nothing in the ${layer()} layer speaks for ${title(target())}.`;
  }
  redraw();
}

function showSeen(canvas, encoded) {
  const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0)), side = answer.size;
  canvas.width = canvas.height = side;
  const image = new ImageData(side, side);
  for (let at = 0; at < side * side; at++) image.data.set([bytes[at], bytes[at], bytes[at], 255], 4 * at);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// The table of scores.

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function makeScores() {
  $("scores").replaceChildren(...session.classes.map((_, index) => {
    const button = element("button", { type: "button", textContent: title(index) });
    button.addEventListener("click", () => choose(index));
    const head = element("th", { scope: "row" }, button);
    const cells = ["clean", "triggered"].map((kind) => element("td", {}, element("div", { className: "score" }, element("span", { className: "track" }, element("i", { className: kind }), element("u")), element("b"))));
    return element("tr", {}, head, ...cells);
  }));
  for (const track of document.querySelectorAll(".track")) track.setAttribute("aria-hidden", "true");
}

function showScores() {
  if (!answer) return;
  const threshold = $("threshold").valueAsNumber;
  for (const [index, row] of [...$("scores").rows].entries()) {
    row.classList.toggle("explained", index === target());
    row.querySelector("button").setAttribute("aria-pressed", String(index === target()));
    for (const [kind, cell] of [...row.querySelectorAll("td")].entries()) {
      const score = answer.scores[kind]?.[index];
      cell.querySelector("i").style.width = `${100 * (score ?? 0)}%`;
      cell.querySelector("u").style.left = `${100 * threshold}%`;
      cell.querySelector("b").textContent = score === undefined ? "–" : score.toFixed(3);
      cell.querySelector(".score").classList.toggle("reported", score >= threshold);
      cell.title = score >= threshold ? "reported" : "";
    }
  }
}

function choose(index) {
  $("class").value = index;
  showSlider("class");
  attempt(ask);
}

// Window and zoom.

function showWindow() {
  const centre = (scene.low + scene.high) / 2, width = scene.high - scene.low, digits = scene.picture.most - scene.picture.least > 20 ? 0 : 2;
  $("center").value = centre;
  $("width").value = width;
  label("center", centre.toFixed(digits));
  label("width", width.toFixed(digits));
}

function takeWindow() {
  const centre = $("center").valueAsNumber, width = $("width").valueAsNumber;
  Object.assign(scene, { low: centre - width / 2, high: centre + width / 2 });
  showWindow();
  repaint();
}

function showInvert() { $("invert").setAttribute("aria-pressed", String(scene.invert)); }
function invert() { scene.invert = !scene.invert; showInvert(); repaint(); }
function reset() { scene.reset(); showWindow(); showInvert(); repaint(); }

function toggleHeat() {
  if (scene.opacity > 0) shownOpacity = scene.opacity;
  $("opacity").value = scene.opacity = scene.opacity > 0 ? 0 : shownOpacity;
  showSlider("opacity");
  redraw();
}

function otherLayer() {
  $("layer").value = (($("layer").valueAsNumber + 1) % session.layers.length);
  showSlider("layer");
  showHeat();
}

function wire() {
  const on = (id, event, work) => $(id).addEventListener(event, work);
  on("previous", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("position", "change", () => { const at = Math.round($("position").valueAsNumber); openTest(Math.min(Math.max(at || 1, 1), session.tests) - 1); });
  on("without", "change", () => { if ($("without").checked && !session.without_target.includes($("position").valueAsNumber - 1)) step(1); });
  on("file", "change", () => { openFile($("file").files[0]); $("file").value = ""; });
  on("attack", "click", stampAsAttacker);
  on("undo", "click", undo);
  on("clear", "click", clearStamps);
  on("invert", "click", invert);
  on("reset", "click", reset);
  on("zoom-in", "click", () => scene.picture && views[0].zoomBy(1.5));
  on("zoom-out", "click", () => scene.picture && views[0].zoomBy(1 / 1.5));
  on("help", "click", () => $("keys").showModal());
  on("close", "click", () => $("keys").close());
  on("threshold", "input", () => { showSlider("threshold"); showScores(); });
  on("opacity", "input", () => { scene.opacity = $("opacity").valueAsNumber; showSlider("opacity"); redraw(); });
  on("layer", "input", () => { showSlider("layer"); showHeat(); });
  on("class", "input", () => { showSlider("class"); askSoon(); });
  on("epoch", "input", () => { showSlider("epoch"); askSoon(); });
  on("method", "change", () => attempt(ask));
  on("arm", "change", () => { takeNetwork(); showSlider("epoch"); attempt(ask); });
  for (const id of ["size", "value"]) on(id, "input", () => { showSlider(id); adjustLast(id); });
  for (const id of ["center", "width"]) on(id, "input", takeWindow);
  document.addEventListener("keydown", shortcut);
  document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
  document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("dropping"); openFile(event.dataTransfer.files[0]); });
}

// Size and grey level change the last stamp too, around its middle.
function adjustLast() {
  const last = scene.stamps.pop();
  if (!last) return;
  const [x, y, side] = scene.square(last);
  try { scene.stamps.push(scene.stampAt(x + side / 2, y + side / 2, $("size").valueAsNumber, $("value").valueAsNumber)); } catch (problem) { scene.stamps.push(last); complain(problem); return; }
  showStamps();
  redraw();
  askSoon();
}

function shortcut(event) {
  if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); undo(); return; }
  const typing = event.target.matches("input:not([type=range]):not([type=checkbox]), select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const keys = {
    "[": () => session.tests && step(-1), "]": () => session.tests && step(1), h: toggleHeat, l: otherLayer, i: invert, 0: reset,
    "+": () => scene.picture && views[0].zoomBy(1.5), "=": () => scene.picture && views[0].zoomBy(1.5), "-": () => scene.picture && views[0].zoomBy(1 / 1.5), "?": () => $("keys").showModal(),
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
}

attempt(begin);
