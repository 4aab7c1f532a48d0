// The reading page: connects its controls, the two views and the server.

import * as api from "./api.js";
import { draw as drawHeat, drawScale } from "./heat.js";
import { Scene } from "./scene.js";
import { Scores } from "./scores.js";
import { words } from "./suspicion.js";
import { Viewport } from "./viewport.js";

const KINDS = ["clean", "triggered"];
const UNASKED = "Screening looks for a small part of the image, or fine structure all over it, that alone makes this network report a finding.";
const PAUSE = 60; // milliseconds without a move of a slider before the server is asked

const $ = (id) => document.getElementById(id);
const scene = new Scene();
const events = { redraw, probe, stamp, window: () => { showWindow(); repaint(); }, cursor };
const views = KINDS.map((kind) => new Viewport($(kind), scene, kind === "triggered", events));
let session, scores, answer = null, position = -1, shownOpacity;

const network = () => session.networks[$("arm").selectedIndex];
const epoch = () => network().epochs[$("epoch").valueAsNumber];
const layer = () => session.layers[$("layer").valueAsNumber];
const target = () => $("class").valueAsNumber;
const title = (index) => session.classes[index].replaceAll("_", " ");
const hidden = () => $("opacity").valueAsNumber === 0;

// The text beside each slider; screen readers read it too.
const SLIDERS = {
  threshold: () => $("threshold").valueAsNumber.toFixed(2),
  opacity: () => `${Math.round(100 * $("opacity").valueAsNumber)} %`,
  class: () => title(target()),
  layer: () => layer(),
  epoch: () => String(epoch()),
  size: () => `${$("size").value} × ${$("size").value}`,
  value: () => $("value").value,
};

function showSlider(id, text = SLIDERS[id]()) {
  $(`${id}-value`).textContent = text;
  $(id).setAttribute("aria-valuetext", text);
}

function say(text) { $("status").textContent = text; }

function complain(problem) {
  $("problem").textContent = problem ? problem.message : "";
  $("problem").hidden = !problem;
}

api.whileBusy((sentence) => {
  $("busy").textContent = sentence;
  $("busy").hidden = !sentence;
});

async function attempt(work) {
  try {
    complain(null);
    await work();
  } catch (problem) { complain(problem); }
}

// Views are drawn at most once for each frame of the screen, however fast the mouse moves.

let frame = 0, repainting = false;

function redraw() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    if (repainting && scene.picture) scene.paint();
    repainting = false;
    for (const view of views) view.draw();
  });
}

function repaint() {
  repainting = true;
  redraw();
}

// Start.

async function begin() {
  session = await api.session();
  $("threshold").value = session.threshold;
  $("opacity").value = scene.opacity = shownOpacity = session.opacity;
  $("class").max = session.classes.length - 1;
  $("class").value = session.target ?? 0;
  $("layer").max = session.layers.length - 1;
  $("attack-text").textContent = `The trigger is ${session.attack.text}. A click on an image adds or removes it.`;
  $("attack-text").hidden = session.attack.square;
  $("brush").hidden = !session.attack.square;
  $("size").max = Math.max(64, session.trigger.size);
  $("size").value = session.trigger.size;
  $("value").value = session.trigger.value;
  for (const { name, label } of session.methods) $("method").append(new Option(label, name));
  for (const { arm, seed } of session.networks) $("arm").append(new Option(`${arm}, seed ${seed}`));
  $("arm-row").hidden = $("epoch-row").hidden = network().arm === "model";
  $("notice").textContent = session.notice;
  $("notice").hidden = !session.notice;
  $("tests").hidden = !session.tests;
  $("position").max = session.tests;
  $("count").textContent = `of ${session.tests}`;
  $("filter").hidden = session.target === null;
  if (session.target !== null) $("target-name").textContent = title(session.target);
  drawScale($("scale"), session.colours);
  scores = new Scores($("scores"), session.classes.map((_, index) => title(index)), choose);
  scores.show([], target(), session.threshold);
  takeNetwork();
  for (const id of Object.keys(SLIDERS)) showSlider(id);
  $("screen").hidden = Boolean(session.no_screen);
  showSuspicion([session.no_screen || UNASKED]);
  wire();
  const wanted = wantedOfPacs();
  if (wanted) await openPacs(wanted);
  else if (session.tests) await openTest(session.without_target[0] ?? 0);
  else {
    $("about").textContent = "no image yet";
    say("Open an image to begin.");
  }
}

function takeNetwork() {
  $("epoch").max = network().epochs.length - 1;
  $("epoch").value = network().epochs.length - 1;
  showSlider("epoch");
}

// Images.

let opening = 0;

// Shows the image that `find` fetches, unless the reader has asked for another one meanwhile.
async function open(find, about) {
  const mine = ++opening;
  const found = await find();
  const levels = await api.levels(found);
  if (mine !== opening) return;
  scene.show({ ...found, levels });
  answer = null;
  for (const view of views) view.heat = null;
  $("about").textContent = about(found);
  $("frame-hint").hidden = found.kept.height === found.height && found.kept.width === found.width;
  $("attack").hidden = !found.place;
  const depth = found.most - found.least;
  Object.assign($("center"), { min: found.least, max: found.most, step: "any" });
  Object.assign($("width"), { min: depth / 500, max: 2 * depth, step: "any" });
  showWindow();
  showInvert();
  repaint();
  await changed();
}

const shape = ({ width, height }) => `${width} × ${height} pixels`;

const openTest = (wanted) => attempt(() => {
  position = wanted;
  $("position").value = wanted + 1;
  return open(() => api.openTest(wanted), (found) => {
    const truth = found.findings === null ? "" : `, true findings: ${found.findings.join(", ").replaceAll("_", " ") || "none"}`;
    return `test image ${wanted + 1}, ${shape(found)}${truth}`;
  });
});

const openFile = (file) => attempt(async () => {
  if (!file) return;
  if (file.size > session.most_upload) {
    throw new Error(`The file is larger than ${session.most_upload / 2 ** 20} MiB; choose a smaller one.`);
  }
  say("Reading the image …");
  try {
    await open(() => api.upload(file), (found) => `your image, ${shape(found)}`);
  } catch (problem) {
    say("The image was not opened.");
    throw problem;
  }
});

// The image of the PACS that the page's address names, if it names one.
function wantedOfPacs() {
  const given = new URLSearchParams(window.location.search);
  const named = ["study", "series", "instance"].filter((name) => given.get(name));
  return named.includes("study") ? Object.fromEntries(named.map((name) => [name, given.get(name)])) : null;
}

const openPacs = (wanted) => attempt(async () => {
  say("Fetching the image from the PACS …");
  try {
    await open(() => api.openPacs(wanted), (found) => `image of the PACS, ${shape(found)}`);
  } catch (problem) {
    say("The image was not opened.");
    throw problem;
  }
});

function step(by) {
  const all = $("without").checked ? session.without_target : Array.from({ length: session.tests }, (_, index) => index);
  const next = by > 0 ? all.find((one) => one > position) ?? all[0] : all.findLast((one) => one < position) ?? all.at(-1);
  if (next !== undefined) openTest(next);
}

function typedPosition() {
  const wanted = Math.round($("position").valueAsNumber) || 1;
  openTest(Math.min(Math.max(wanted, 1), session.tests) - 1);
}

// Stamps.

function stamp(place) {
  attempt(async () => {
    if (session.attack.square) scene.stamps.push(scene.stampAt(place, $("size").valueAsNumber, $("value").valueAsNumber));
    else attack(!scene.attacked);
    await changed();
  });
}

// A trigger that is not a square goes where the attacker puts it, wherever the reader clicks.
function attack(on) {
  if (on && !scene.picture.place) throw new Error(`The trigger cannot be stamped on this image: ${session.attack.text}.`);
  scene.attacked = on;
}

function undo() {
  if (!scene.stamps.pop() && !scene.attacked) return;
  scene.attacked = false;
  attempt(changed);
}

function clearStamps() {
  scene.stamps = [];
  scene.attacked = false;
  attempt(changed);
}

function stampAsAttacker() {
  if (!session.attack.square) {
    attempt(async () => {
      attack(true);
      await changed();
    });
    return;
  }
  const [row, column] = scene.picture.place;
  scene.stamps.push({ row, column, ...session.trigger });
  attempt(changed);
}

// Moving the sliders for size and grey level also changes the last stamp; its centre stays.
function adjustLast() {
  attempt(() => {
    const last = scene.stamps.at(-1);
    if (!last) return;
    const [x, y, width, height] = scene.rectangle(last), middle = [x + width / 2, y + height / 2];
    const adjusted = scene.stampAt(middle, $("size").valueAsNumber, $("value").valueAsNumber);
    scene.stamps.splice(-1, 1, adjusted);
    showStamps();
    redraw();
    askSoon();
  });
}

async function changed() {
  showStamps();
  redraw();
  await ask();
}

function showStamps() {
  const texts = scene.stamps.map(({ row, column, size, value }) => `${size} × ${size}, grey ${value}, row ${row}, column ${column}`);
  if (scene.attacked) texts.push(session.attack.text);
  $("undo").disabled = $("clear").disabled = !texts.length;
  $("stamps").replaceChildren(...texts.map((textContent) => Object.assign(document.createElement("li"), { textContent })));
}

// Questions and answers: one request at a time, then the newest question. Answers to older questions are dropped.

let asking = false, outdated = false, pause = 0;

function askSoon() {
  forget();
  clearTimeout(pause);
  pause = setTimeout(() => attempt(ask), PAUSE);
}

async function ask() {
  clearTimeout(pause);
  if (!scene.picture) return;
  forget();
  outdated = asking;
  if (asking) return;
  asking = true;
  try {
    do {
      outdated = false;
      let found = null, problem = null;
      try { found = await api.explain(question()); } catch (error) { problem = error; }
      if (outdated) continue;
      if (problem) throw problem;
      answer = found;
      showAnswer();
    } while (outdated);
  } finally { asking = false; }
}

function shown() {
  const { arm, seed } = network(), { stamps, attacked, picture } = scene;
  return { image: picture?.image, stamps, attacked, arm, seed, epoch: epoch() };
}

const question = () => ({ ...shown(), target: target(), method: $("method").value });

function showAnswer() {
  const stamped = answer.scores.length > 1, pixels = answer.changed, index = answer.target;
  session.layers = session.layers.filter((one) => one in answer.maps); // a network may have no middle layer
  $("layer").max = session.layers.length - 1;
  takeLayer();
  showScores();
  for (const [at, kind] of KINDS.entries()) showSeen($(`seen-${kind}`), answer.seen[at] ?? answer.seen[0]);
  $("survival").textContent = !stamped ? "no stamp yet: click on an image"
    : pixels ? `the trigger changes ${pixels} pixel${pixels > 1 ? "s" : ""} of what the model sees`
    : "the trigger does not survive: the model sees the same image";
  const [clean, triggered] = answer.scores.map((one) => one[index].toFixed(3));
  say(stamped ? `${title(index)}: ${clean} clean, ${triggered} triggered.` : `${title(index)}: ${clean}.`);
}

function showScores() { scores.show(answer?.scores ?? [], target(), $("threshold").valueAsNumber); }

function showHeat() {
  if (!answer) return;
  const maps = answer.maps[layer()], hottest = answer.hottest[layer()], most = Math.max(...hottest);
  for (const [index, kind] of KINDS.entries()) {
    const at = Math.min(index, maps.length - 1), map = maps[at];
    const share = $("together").checked ? hottest[at] / most : 1;
    views[index].heat = hottest[at] > 0 ? drawHeat(map, share, session.colours) : null;
    $(`${kind}-heat`).textContent = hottest[at] > 0
      ? `${layer()} layer, ${map.length} × ${map[0].length} cells, maximum ${hottest[at].toPrecision(2)}`
      : `${layer()} layer: the heat map for ${title(answer.target)} is empty`;
  }
  redraw();
}

// A suspicion belongs to one image with its stamps and one network. It disappears when any of them changes.

let suspected = "", screening = null;

async function screen() {
  const asked = shown(), mine = JSON.stringify(asked);
  if (!asked.image || session.no_screen || mine === suspected) return;
  suspected = mine;
  const once = `The first time for a network, the threshold is set on ${session.clean_images} clean images`;
  const meanwhile = "Another image, stamp or network ends the screening; everything else can be used meanwhile";
  showSuspicion([`Screening … ${once}, which can take some minutes. ${meanwhile}.`]);
  screening = new AbortController();
  try {
    const found = await api.screen(asked, screening.signal);
    if (mine !== suspected) return;
    scene.suspect = found.pixels ? found : null;
    showSuspicion(words(found, title(found.target)), found.flagged);
    redraw();
  } catch (problem) {
    if (mine !== suspected) return;
    unask();
    throw problem;
  }
}

function forget() {
  if (suspected && suspected !== JSON.stringify(shown())) unask();
}

function unask() {
  screening?.abort();
  screening = null;
  suspected = "";
  scene.suspect = null;
  showSuspicion([UNASKED]);
  redraw();
}

// Shows sentences; the first is the verdict, unless `flagged` is null.
function showSuspicion(sentences, flagged = null) {
  const paragraphs = sentences.map((text) => Object.assign(document.createElement("p"), { textContent: text }));
  paragraphs[0].className = flagged === null ? "soft" : flagged ? "verdict flagged" : "verdict";
  $("suspicion").replaceChildren(...paragraphs);
}

function showSeen(canvas, encoded) {
  const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0)), side = answer.size;
  const channels = bytes.length / side ** 2;
  canvas.width = canvas.height = side;
  const image = new ImageData(side, side);
  for (let at = 0; at < side * side; at++) {
    for (let one = 0; one < 3; one++) image.data[4 * at + one] = bytes[channels * at + one % channels];
    image.data[4 * at + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function choose(index) {
  $("class").value = index;
  takeClass();
}

function takeClass() {
  showSlider("class");
  showScores();
  askSoon();
}

// Window, zoom and the cursor.

const inUnit = (value) => value.toFixed(scene.picture.most - scene.picture.least > 20 ? 0 : 3).replace("-", "−");
const spelled = ([x, y]) => `row ${Math.floor(y)}, column ${Math.floor(x)}, value ${scene.values([x, y]).map(inUnit).join(" ")}`;

function probe(place) { $("probe").textContent = place ? spelled(place) : ""; }

function cursor() {
  redraw();
  probe(scene.cursor);
  say(`Cursor at ${spelled(scene.cursor)}.`);
}

function showWindow() {
  const centre = (scene.low + scene.high) / 2, width = scene.high - scene.low;
  $("center").value = centre;
  $("width").value = width;
  showSlider("center", inUnit(centre));
  showSlider("width", inUnit(width));
}

function takeWindow() {
  if (!scene.picture) return;
  const centre = $("center").valueAsNumber, width = $("width").valueAsNumber;
  Object.assign(scene, { low: centre - width / 2, high: centre + width / 2 });
  showWindow();
  repaint();
}

function showInvert() { $("invert").setAttribute("aria-pressed", String(scene.invert)); }

function invert() {
  scene.invert = !scene.invert;
  showInvert();
  repaint();
}

function reset() {
  if (!scene.picture) return;
  scene.reset();
  showWindow();
  showInvert();
  repaint();
}

function zoom(factor) { if (scene.picture) views[0].zoomBy(factor); }

function takeOpacity() {
  scene.opacity = $("opacity").valueAsNumber;
  showSlider("opacity");
  redraw();
}

function toggleHeat() {
  if (!hidden()) shownOpacity = scene.opacity;
  $("opacity").value = hidden() ? shownOpacity : 0;
  takeOpacity();
}

function takeLayer() {
  showSlider("layer");
  showHeat();
}

function otherLayer() {
  $("layer").value = ($("layer").valueAsNumber + 1) % session.layers.length;
  takeLayer();
}

// Controls and keyboard shortcuts.

function wire() {
  const controls = {
    click: {
      previous: () => step(-1), next: () => step(1), attack: stampAsAttacker, undo, clear: clearStamps, invert, reset,
      screen: () => attempt(screen),
      "zoom-in": () => zoom(1.5), "zoom-out": () => zoom(1 / 1.5),
      help: () => $("keys").showModal(), close: () => $("keys").close(),
    },
    input: {
      threshold: () => { showSlider("threshold"); showScores(); },
      opacity: takeOpacity, layer: takeLayer, class: takeClass,
      epoch: () => { showSlider("epoch"); askSoon(); },
      size: () => { showSlider("size"); adjustLast(); },
      value: () => { showSlider("value"); adjustLast(); },
      center: takeWindow, width: takeWindow,
    },
    change: {
      position: typedPosition,
      without: () => { if ($("without").checked && !session.without_target.includes(position)) step(1); },
      file: () => { openFile($("file").files[0]); $("file").value = ""; },
      method: askSoon, together: showHeat,
      arm: () => { takeNetwork(); askSoon(); },
    },
  };
  for (const [event, ids] of Object.entries(controls)) {
    for (const [id, work] of Object.entries(ids)) $(id).addEventListener(event, work);
  }
  document.addEventListener("keydown", shortcut);
  document.addEventListener("dragover", (event) => dropping(event, true));
  document.addEventListener("dragleave", (event) => dropping(event, false));
  document.addEventListener("drop", (event) => { dropping(event, false); openFile(event.dataTransfer.files[0]); });
}

function dropping(event, over) {
  event.preventDefault();
  document.body.classList.toggle("dropping", over);
}

function shortcut(event) {
  if ($("keys").open) return;
  if ((event.ctrlKey || event.metaKey) && event.key === "z") {
    event.preventDefault();
    undo();
    return;
  }
  const typing = event.target.matches("input:not([type=range], [type=checkbox]), select");
  const combined = (event.ctrlKey || event.metaKey || event.altKey) && !event.getModifierState("AltGraph"); // AltGr types [ and ]
  if (typing || combined) return;
  const keys = {
    "[": () => session.tests && step(-1), "]": () => session.tests && step(1), h: toggleHeat, l: otherLayer, i: invert,
    s: () => attempt(screen),
    0: reset, "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), "?": () => $("keys").showModal(),
  };
  if (!(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
}

attempt(begin);
