"use strict";
const $ = (id) => document.getElementById(id);
const [pad, pen, layer, panels, found, message] = ["pad", "pen", "layer", "panels", "found", "message"].map($);
const WIDTH = 22;
let asked = null; // what was asked last: {query, body}
let running = null;
let waiting = 0;

async function ask(query, body) {
  asked = { query, body };
  if (running) running.abort();
  running = new AbortController();
  const mine = running;
  const options = new URLSearchParams(query);
  if (layer) options.set("layer", layer.value);
  document.body.setAttribute("aria-busy", "true");
  found.classList.add("busy");
  try {
    const headers = { "Content-Type": "application/octet-stream" };
    const response = await fetch(`predict?${options}`, { method: "POST", body, headers, signal: mine.signal });
    const answer = await response.json();
    if (answer.error) fail(answer.error);
    else show(answer);
  } catch (error) {
    if (error.name !== "AbortError") fail("The server cannot be reached. Is `kanvolution demo` still running?");
  } finally {
    if (mine === running) {
      found.classList.remove("busy");
      document.body.removeAttribute("aria-busy");
    }
  }
}

function fail(text) {
  message.textContent = text;
  message.classList.add("error");
  found.hidden = true;
  if (panels) panels.replaceChildren();
}

function element(tag, style, text) {
  const made = document.createElement(tag);
  if (style) made.className = style;
  if (text !== undefined) made.textContent = text;
  return made;
}

function show(answer) {
  const best = answer.classes[0];
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  message.textContent = `${best.name}, ${percent(best.share)} (${answer.milliseconds} ms)`;
  message.classList.remove("error");
  $("classes").replaceChildren(
    ...answer.classes.map((entry, i) => {
      const row = element("div");
      const track = element("i", "track");
      const bar = element("i");
      bar.style.width = percent(entry.share).replace(" ", "");
      track.append(bar);
      row.append(element("span", i ? "" : "best", entry.name), track, element("span", "num", percent(entry.share)));
      return row;
    }),
  );
  for (const name of ["input", "mask", "cam"]) {
    const figure = $(`${name}-figure`);
    if (figure) figure.hidden = !answer[name];
    if (answer[name]) $(name).src = answer[name];
  }
  found.hidden = false;
  if (panels) panels.replaceChildren(...answer.functions.map(panel));
}

function panel(entry) {
  const figure = element("figure", "function");
  const caption = element("figcaption");
  caption.append(element("b", "", entry.edge), entry.tap, element("span", "", entry.share));
  const chart = document.createElement("template");
  chart.innerHTML = entry.chart; // SVG of numbers alone
  const image = element("img");
  image.src = entry.map;
  image.alt = `what the function ${entry.edge} makes of its channel`;
  figure.append(caption, chart.content, image);
  return figure;
}

function send(file) {
  if (!file) return;
  const most = Number($("file").dataset.most);
  if (file.size > most) return fail(`The file is too large; at most ${(most / 1e6).toFixed(0)} MB are taken.`);
  ask($("invert").checked ? { invert: "1" } : {}, file);
}

if (pad) {
  const ink = pad.getContext("2d");
  let place = null;
  let cursor = [140, 140];
  const clear = () => {
    ink.fillStyle = "#000";
    ink.fillRect(0, 0, pad.width, pad.height);
  };
  const draw = (from, to) => {
    ink.strokeStyle = "#fff";
    ink.lineWidth = WIDTH;
    ink.lineCap = ink.lineJoin = "round";
    ink.beginPath();
    ink.moveTo(...from);
    ink.lineTo(...to);
    ink.stroke();
  };
  const done = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => pad.toBlob((blob) => ask({ drawing: "1" }, blob)), 150);
  };
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    const scale = pad.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  const movePen = () => {
    pen.style.left = `${(100 * cursor[0]) / pad.width}%`;
    pen.style.top = `${(100 * cursor[1]) / pad.height}%`;
  };
  clear();
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    place = at(event);
    draw(place, place);
  });
  pad.addEventListener("pointermove", (event) => {
    if (!place) return;
    const next = at(event);
    draw(place, next);
    place = next;
  });
  for (const name of ["pointerup", "pointercancel"])
    pad.addEventListener(name, () => {
      if (place) done();
      place = null;
    });
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  pad.addEventListener("keydown", (event) => {
    if (event.key === "Delete" || event.key === "Backspace") return $("clear").click();
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const next = cursor.map((value, i) => Math.min(270, Math.max(10, value + 10 * step[i])));
    if (event.shiftKey) {
      draw(cursor, next);
      done();
    }
    cursor = next;
    movePen();
  });
  pad.addEventListener("focus", () => {
    pen.hidden = !pad.matches(":focus-visible");
    movePen();
  });
  pad.addEventListener("blur", () => (pen.hidden = true));
  $("clear").addEventListener("click", () => {
    clearTimeout(waiting);
    clear();
    asked = null;
    found.hidden = true;
    message.textContent = "Nothing yet.";
    message.classList.remove("error");
    if (panels) panels.replaceChildren();
  });
}

const drop = $("drop");
$("file").addEventListener("change", (event) => send(event.target.files[0]));
$("invert").addEventListener("change", () => send($("file").files[0]));
for (const name of ["dragenter", "dragover"])
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
document.addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  send(event.dataTransfer.files[0]);
});
for (const button of document.querySelectorAll(".example"))
  button.addEventListener("click", () => ask({ example: button.dataset.example }));
if (layer) layer.addEventListener("change", () => asked && ask(asked.query, asked.body));
