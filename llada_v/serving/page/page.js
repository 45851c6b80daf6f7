// The page: ask, watch the answer appear, look into it. It talks to the public API alone.
//
//   picture(s) + question -> POST v1/chat/completions (stream, diffusing) -> frames -> tokens on the page
//   a chosen token        -> POST v1/diffusion/attention                  -> where in the pictures it looked
//
// A run is one answer: its frames as they came, the text, what it took. A turn has one run, or two side by side.
"use strict";

const MOST_SIDE = 2400; // of a picture that is sent: more than any model here looks at
const RUNNERS_UP = 5;
const REPLAY_SECONDS = 5;
const SUGGESTIONS = ["How many objects are there?", "What colour is the circle?", "Is the blue square above the green circle?", "How many squares and circles are there together? /think"];
const FIRST_FIELDS = ["preset", "gen_length", "temperature", "steps", "block_length"];
const LEFT_OUT = ["stop_token_ids", "suffix_token_ids"];
const COMPARED = [["plain", "exact"], ["fast", "fast"]];
const KEPT_IN_COMPARISON = ["gen_length", "temperature"];

const page = { card: null, turns: [], pending: [], stop: null, settings: {}, seed: null, thinks: null, key: sessionStorage.getItem("key"), chosen: null };
const $ = (selector, root = document) => root.querySelector(selector);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(svg.namespaceURI, "path"));
  svg.firstChild.setAttribute("d", path);
  return svg;
}
const CROSS = "M6 6l12 12M18 6L6 18", PLAY = "M8 5.500l10 6.500-10 6.500z", PAUSE = "M8 5v14M16 5v14";
const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share < 0.1 ? 2 : 1)} %`;
const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(milliseconds < 10000 ? 2 : 1)} s`;

function toast(text) {
  const box = $("#toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (box.hidden = true), 7000);
}

// The API

async function call(path, body, signal) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  if (page.key) headers.Authorization = `Bearer ${page.key}`;
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  const wait = response.headers.get("Retry-After");
  const error = new Error((told?.error?.message ?? `status ${response.status}`) + (wait ? `; try again in ${wait} s` : ""));
  error.status = response.status;
  throw error;
}

async function* events(body, signal) {
  const reader = (await call("v1/chat/completions", body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the server broke off before the answer was finished");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

async function greet() {
  try {
    page.card = (await (await call("v1/models")).json()).data[0];
    $("#model").textContent = page.card.id;
    drawFields((await (await call("openapi.json")).json()).components.schemas.Diffusion.properties);
  } catch (error) {
    $("#model").textContent = error.status === 401 ? "asks for a key" : "no answer";
    drawFields({});
    if (error.status === 401) $("#settings").showModal();
    else toast(`The server does not answer: ${error.message}`);
  }
}

// Asking

function messagesOf(turns, question, pictures) {
  const content = (text, shown) =>
    shown.length ? [...shown.map((url) => ({ type: "image_url", image_url: { url } })), { type: "text", text }] : text;
  return [
    ...turns.flatMap((turn) => [
      { role: "user", content: content(turn.question, turn.pictures) },
      { role: "assistant", content: turn.runs[0].text },
    ]),
    { role: "user", content: content(question, pictures) },
  ];
}

async function ask(question) {
  const pictures = page.pending.splice(0);
  drawPending();
  $("#start").hidden = true;
  const before = page.turns.filter((turn) => turn.runs.every((run) => run.isWhole));
  const turn = { question, pictures, runs: [] };
  const kinds = $("#compare").checked ? COMPARED : [[null, page.settings.preset ?? null]];
  for (const [name, preset] of kinds) {
    const kept = Object.entries(page.settings).filter(([key]) => !name || KEPT_IN_COMPARISON.includes(key));
    const diffusion = { ...Object.fromEntries(kept), ...(preset && { preset }) };
    turn.runs.push(new Run(name, messagesOf(before, question, pictures), diffusion));
  }
  page.turns.push(turn);
  drawTurn(turn);
  page.stop = new AbortController();
  document.body.classList.add("busy");
  $("#send").title = $("#send").ariaLabel = "Stop";
  try {
    // One after the other, so that neither takes the other's time; the pictures are seen before, or the first alone paid.
    if (turn.runs.length === 2) await look(turn.runs[0], [null], 0, page.stop.signal).catch(() => {});
    for (const run of turn.runs) if (!page.stop.signal.aborted) await run.perform(page.stop.signal);
  } finally {
    page.stop = null;
    document.body.classList.remove("busy");
    $("#send").title = $("#send").ariaLabel = "Ask";
  }
  $("#spoken").textContent = turn.runs.map((run) => `${run.name ?? "Answer"}: ${run.error ?? run.text}`).join(". ");
  if (turn.runs.length === 2) crown(turn.runs);
}

function crown(runs) {
  if (!runs.every((run) => run.isWhole)) return;
  const [first, second] = runs.map((run) => run.timings.milliseconds);
  const winner = runs[first <= second ? 0 : 1];
  const times = Math.max(first, second) / Math.min(first, second);
  $("h3", winner.card).append(make("span", { className: "won", textContent: `${times.toFixed(1)} times as fast` }));
}

class Run {
  constructor(name, messages, diffusion) {
    Object.assign(this, { name, messages, diffusion, thinks: page.thinks, frames: [], text: "", timings: null, usage: null, error: null, isWhole: false, at: 0 });
    const length = Number(diffusion.gen_length ?? page.card?.diffusion?.gen_length);
    this.length = Number.isInteger(length) ? length : 32; // "auto" begins with so many
    this.draw();
  }

  async perform(signal) {
    this.card.classList.add("live");
    const body = { messages: this.messages, stream: true, stream_options: { include_usage: true }, diffusing: true,
      logprobs: true, top_logprobs: RUNNERS_UP, diffusion: this.diffusion };
    if (page.seed !== null) body.seed = page.seed;
    if (this.thinks !== null) body.enable_thinking = this.thinks;
    try {
      for await (const event of events(body, signal)) {
        if (event.type === "diffusion_frame") {
          this.frames.push(event);
          this.show(this.frames.length);
        }
        for (const choice of event.choices) this.text += choice.delta.content ?? "";
        this.timings = event.timings ?? this.timings;
        this.usage = event.usage ?? this.usage;
      }
      this.isWhole = true;
    } catch (error) {
      this.error = signal.aborted ? "Stopped." : error.message;
    }
    this.card.classList.remove("live");
    this.finish();
  }

  // On the page

  draw() {
    this.answer = make("div", { className: "answer", role: "group", ariaLabel: "Answer, token by token" });
    this.slider = make("input", { type: "range", min: 0, max: 0, value: 0, ariaLabel: "Step" });
    this.told = make("output");
    this.play = make("button", { type: "button", className: "plain", ariaLabel: "Replay", title: "Replay" }, icon(PLAY));
    this.scrub = make("div", { className: "scrub", hidden: true }, this.play, this.slider, this.told);
    this.foot = make("div", { className: "foot", hidden: true });
    this.card = make("article", { className: "run", ariaLabel: this.name ? `Answer, ${this.name}` : "Answer" });
    if (this.name) this.card.append(make("h3", {}, make("b", { textContent: this.name })));
    this.card.append(this.answer, this.scrub, this.foot);
    this.slider.oninput = () => { this.rest(); this.show(Number(this.slider.value)); };
    this.play.onclick = () => (this.timer ? this.rest() : this.replay());
    this.answer.onclick = (event) => this.choose(event.target);
    this.answer.onkeydown = (event) => this.move(event);
    this.show(0);
  }

  show(at) {
    this.at = at;
    const fog = { text: "", probability: 0, state: "masked" };
    const tokens = at ? this.frames[at - 1].tokens : Array(this.frames[0]?.tokens.length > 1 ? this.frames[0].tokens.length : this.length).fill(fog);
    while (this.answer.children.length > tokens.length) this.answer.lastChild.remove();
    while (this.answer.children.length < tokens.length) {
      const token = make("span", { className: "tok mask" });
      token.style.setProperty("--i", this.answer.children.length);
      this.answer.append(make("span", {}, "", token));
    }
    tokens.forEach((token, place) => drawToken(this.answer.children[place], token));
    this.slider.max = this.frames.length;
    this.slider.value = at;
    this.told.textContent = `step ${at} of ${this.frames.length}`;
    this.slider.setAttribute("aria-valuetext", this.told.textContent);
    const chosen = page.chosen?.run === this ? page.chosen.place : 0;
    [...this.answer.querySelectorAll("[role=button]")].forEach((token, number) => (token.tabIndex = number ? -1 : 0));
    this.mark(page.chosen?.run === this ? chosen : -1);
  }

  mark(place) {
    [...this.answer.children].forEach((cell, number) => {
      const token = cell.lastChild;
      if (token.role) token.ariaPressed = String(number === place);
    });
  }

  finish() {
    this.scrub.hidden = this.frames.length < 1;
    this.foot.hidden = false;
    this.foot.textContent = "";
    if (this.error) this.foot.append(make("p", { className: "wrong", textContent: this.error }));
    if (this.timings) {
      const fact = (value, what) => make("span", {}, make("b", { textContent: value }), ` ${what}`);
      this.foot.append(fact(this.timings.forwards, this.timings.forwards === 1 ? "forward" : "forwards"), fact(seconds(this.timings.milliseconds), ""),
        fact(this.usage?.completion_tokens ?? "", this.usage?.completion_tokens === 1 ? "token" : "tokens"));
    }
    if (!this.isWhole) return;
    if (!this.text) this.answer.append(make("em", { className: "note", textContent: "an empty answer" }));
    const button = (name, does) => make("button", { type: "button", className: "plain", textContent: name, onclick: does });
    this.foot.append(make("span", { className: "does" },
      button("Copy", () => navigator.clipboard.writeText(this.text).then(() => toast("Copied."), () => toast("The browser does not allow it."))),
      button("GIF", () => shareGif(this))));
  }

  replay() {
    const wait = Math.min(500, Math.max(60, (1000 * REPLAY_SECONDS) / this.frames.length));
    let at = this.at >= this.frames.length ? 0 : this.at;
    this.card.classList.add("live");
    this.play.replaceChildren(icon(PAUSE));
    this.play.ariaLabel = this.play.title = "Pause";
    this.show(at);
    this.timer = setInterval(() => (at < this.frames.length ? this.show(++at) : this.rest()), wait);
  }

  rest() {
    clearInterval(this.timer);
    this.timer = null;
    this.card.classList.remove("live");
    this.play.replaceChildren(icon(PLAY));
    this.play.ariaLabel = this.play.title = "Replay";
  }

  // Choosing a token

  placeOf(target) {
    const token = target.closest?.("[role=button]");
    return token && this.answer.contains(token) ? [...this.answer.children].indexOf(token.parentElement) : -1;
  }

  choose(target) {
    const place = this.placeOf(target);
    if (place >= 0) inspect(this, place);
  }

  move(event) {
    const tokens = [...this.answer.querySelectorAll("[role=button]")];
    const at = tokens.indexOf(event.target);
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return this.choose(event.target);
    }
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (to === undefined || !tokens[to]) return;
    event.preventDefault();
    tokens[at].tabIndex = -1;
    tokens[to].tabIndex = 0;
    tokens[to].focus();
    if (page.chosen?.run === this) this.choose(tokens[to]);
  }
}

// A cell is the blanks in front of a token and the token itself, so that only the word is coloured.
function drawToken(cell, token) {
  const [blank, word] = [cell.firstChild, cell.lastChild];
  const isMasked = token.state === "masked";
  const isBlank = !token.text.trim();
  const lead = isMasked || isBlank ? "" : token.text.match(/^\s*/)[0];
  const shown = isMasked ? "" : token.text.slice(lead.length);
  if (blank.data !== lead) blank.data = lead;
  if (word.textContent !== shown) word.textContent = shown;
  const isNew = token.state === "new" && word.classList.contains("mask");
  word.className = isMasked ? "tok mask" : `tok${isNew ? " new" : ""}`;
  if (isMasked) {
    for (const name of ["role", "tabindex", "title", "aria-pressed", "aria-label"]) word.removeAttribute(name);
    word.style.removeProperty("--p");
    return;
  }
  word.role = "button";
  word.ariaLabel = isBlank ? "blank" : null;
  word.title = percent(token.probability ?? 1);
  word.style.setProperty("--p", token.probability ?? 1);
}

function drawTurn(turn) {
  const asked = make("div", { className: "asked" });
  if (turn.pictures.length) asked.append(make("div", { className: "shown" }, ...turn.pictures.map((src, n) => pictureOf(src, `Picture ${n + 1}`))));
  asked.append(make("p", { textContent: turn.question }));
  const runs = make("div", { className: "runs" }, ...turn.runs.map((run) => run.card));
  const element = make("div", { className: "turn" }, asked, runs);
  if (page.turns.length === 1) element.append(make("p", { className: "legend" }, "unsure ", make("i"), " sure. Choose a word to look into it."));
  $("#chat").append(element);
  element.scrollIntoView({ block: "end", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function pictureOf(src, alt) {
  const image = make("img", { src, alt });
  image.onload = () => image.classList.toggle("small", image.naturalWidth < 200);
  return image;
}

// Looking into a token

function birthOf(run, place) {
  const step = run.frames.findIndex((frame) => frame.tokens[place] && frame.tokens[place].state !== "masked");
  return { step: step + 1, token: run.frames[step].tokens[place] };
}

// What the model saw when it revealed the token: the canvas of the step before, null for a mask.
function canvasBefore(run, step) {
  const tokens = step > 1 ? run.frames[step - 2].tokens : [];
  const ids = tokens.map((token) => (token.state === "masked" ? null : token.id));
  return [...ids, ...Array(Math.max(0, run.length - ids.length)).fill(null)];
}

function look(run, answer, position, signal) {
  const body = { messages: run.messages, answer, position, ...(run.thinks !== null && { enable_thinking: run.thinks }) };
  return call("v1/diffusion/attention", body, signal);
}

async function inspect(run, place) {
  page.chosen?.run.mark(-1);
  page.looking?.abort();
  page.chosen = { run, place };
  run.mark(place);
  const { step, token } = birthOf(run, place);
  const details = $("#details");
  const bars = [{ ...token, isChosen: true }, ...(token.runners_up ?? []).filter((other) => other.id !== token.id)].slice(0, RUNNERS_UP + 1);
  details.replaceChildren(
    make("p", { className: "word", textContent: token.text.trim() || "blank" }),
    make("p", { className: "when", textContent: `token ${place + 1}, revealed in step ${step} of ${run.frames.length}` }),
    make("ul", { className: "bars", ariaLabel: "Candidates" }, ...bars.map((other) => {
      const line = make("li", { className: other.isChosen ? "chosen" : "" }, make("span", { textContent: other.text.trim() || "blank" }), percent(other.probability));
      line.style.setProperty("--p", other.probability);
      return line;
    })),
  );
  $("#inspector").hidden = false;
  const turn = page.turns.find((each) => each.runs.includes(run));
  const looked = make("div");
  details.append(looked);
  page.looking = new AbortController();
  try {
    const found = await (await look(run, canvasBefore(run, step), place, page.looking.signal)).json();
    drawLooks(looked, found, page.turns.slice(0, page.turns.indexOf(turn) + 1).filter((each) => each === turn || each.runs.every((one) => one.isWhole)).flatMap((each) => each.pictures));
  } catch (error) {
    if (error.name !== "AbortError") looked.append(make("p", { className: "wrong", textContent: error.message }));
  }
}

function drawLooks(box, found, pictures) {
  const figures = found.pictures.map((look) => {
    const canvas = make("canvas", { width: look.columns, height: look.rows, ariaHidden: "true" });
    shade(canvas, look);
    return make("figure", {}, pictureOf(pictures[look.index], `Picture ${look.index + 1}, bright where this token looked`), canvas);
  });
  if (figures.length) box.append(make("h3", { textContent: "Where it looked" }), make("div", { className: "looked" }, ...figures));
  const parts = [["pictures", found.share.pictures], ["question and chat", found.share.prompt], ["answer", found.share.answer]];
  box.append(make("div", { className: "shares", ariaHidden: "true" }, ...parts.map(([, share]) => {
    const part = make("i");
    part.style.setProperty("--p", share);
    return part;
  })), make("p", { className: "note", textContent: `Attention: ${parts.map(([name, share]) => `${name} ${Math.round(100 * share)} %`).join(", ")}.` }));
}

// Dark where nothing was looked at, clear where most was; one pixel a cell, the browser smooths.
function shade(canvas, look) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(look.columns, look.rows);
  const cells = look.weights.flat();
  const most = Math.max(...cells, 1e-12);
  cells.forEach((weight, n) => pixels.data.set([14, 15, 24, Math.round(225 * (1 - Math.sqrt(weight / most)))], 4 * n));
  context.putImageData(pixels, 0, 0);
}

function closeInspector() {
  page.chosen?.run.mark(-1);
  page.chosen = null;
  page.looking?.abort();
  $("#inspector").hidden = true;
}

// Pictures

async function addPictures(files) {
  for (const file of files) {
    if (!file.type.startsWith("image/")) toast(`${file.name} is no picture.`);
    else if (page.card?.limits && page.pending.length >= page.card.limits.pictures) return toast(`At most ${page.card.limits.pictures} pictures.`);
    else await readPicture(file).then((url) => page.pending.push(url), () => toast(`${file.name || "The picture"} cannot be read.`));
  }
  drawPending();
  $("#question").focus();
}

// A picture as it is, unless it is large or its camera was held sideways: then it is drawn anew, upright.
async function readPicture(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, MOST_SIDE / Math.max(bitmap.width, bitmap.height));
  const isJpeg = file.type === "image/jpeg";
  if (scale === 1 && /^image\/(png|jpeg|webp|gif|bmp)$/.test(file.type) && !(isJpeg && isTurned(await file.slice(0, 65536).arrayBuffer()))) {
    return new Promise((done, fail) => Object.assign(new FileReader(), { onload() { done(this.result); }, onerror: fail }).readAsDataURL(file));
  }
  const canvas = make("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL(isJpeg ? "image/jpeg" : "image/png", 0.93);
}

// Whether the Exif orientation (tag 0x0112) of a JPEG is another than 1.
function isTurned(buffer) {
  const view = new DataView(buffer);
  for (let at = 2; at + 18 < view.byteLength && view.getUint8(at) === 0xff; at += 2 + view.getUint16(at + 2)) {
    if (view.getUint16(at) !== 0xffe1 || view.getUint32(at + 4) !== 0x45786966) continue;
    const start = at + 10, little = view.getUint16(start) === 0x4949;
    const first = start + view.getUint32(start + 4, little);
    if (first + 2 > view.byteLength) return false;
    for (let n = 0; n < view.getUint16(first, little); n++) {
      const entry = first + 2 + 12 * n;
      if (entry + 12 > view.byteLength) return false;
      if (view.getUint16(entry, little) === 0x0112) return view.getUint16(entry + 8, little) !== 1;
    }
  }
  return false;
}

function drawPending() {
  $("#pending").replaceChildren(...page.pending.map((src, place) => {
    const remove = make("button", { type: "button", ariaLabel: `Remove picture ${place + 1}`, onclick: () => { page.pending.splice(place, 1); drawPending(); } }, icon(CROSS));
    return make("li", {}, pictureOf(src, `Picture ${place + 1}`), remove);
  }));
}

async function photograph() {
  if (!navigator.mediaDevices?.getUserMedia) return $("#capture").click();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
    $("#viewfinder").srcObject = stream;
    $("#camera").showModal();
    await $("#viewfinder").play();
  } catch {
    $("#capture").click();
  }
}

function closeCamera(takes) {
  const video = $("#viewfinder");
  if (takes && video.videoWidth) {
    const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => addPictures([new File([blob], "photograph.jpg", { type: "image/jpeg" })]), "image/jpeg", 0.93);
  }
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  $("#camera").close();
}

// Settings: one field for each that the API's own description has

function drawFields(properties) {
  const names = Object.keys(properties).filter((name) => !LEFT_OUT.includes(name));
  const first = FIRST_FIELDS.filter((name) => names.includes(name));
  const key = field("key", "API key", make("input", { type: "password", autocomplete: "off", value: page.key ?? "" }), "If the server asks for one. Kept until the tab is closed.");
  $("input", key).onchange = (event) => {
    page.key = event.target.value || null;
    sessionStorage.setItem("key", event.target.value);
    if (!page.card) greet();
  };
  const seed = field("seed", "seed", make("input", { type: "number", min: 0, step: 1, placeholder: "chance", value: page.seed ?? "" }), "The same seed gives the same answer where chance has a part.");
  $("input", seed).onchange = (event) => (page.seed = event.target.value === "" ? null : Number(event.target.value));
  const options = [["", "as asked"], ["true", "yes"], ["false", "no"]].map(([value, textContent]) => make("option", { value, textContent }));
  const think = field("think", "think first", make("select", {}, ...options), "Ends the question as the reasoning data does, with /think or /no_think.");
  $("select", think).value = String(page.thinks ?? "");
  $("select", think).onchange = (event) => (page.thinks = { true: true, false: false }[event.target.value] ?? null);
  $("#fields").replaceChildren(...first.map((name) => settingField(name, properties[name])), think, seed, key);
  $("#more-fields").replaceChildren(...names.filter((name) => !first.includes(name)).map((name) => settingField(name, properties[name])));
}

function settingField(name, schema) {
  const kinds = schema.anyOf ?? [schema];
  const choices = kinds.flatMap((kind) => kind.enum ?? (kind.const !== undefined ? [kind.const] : []));
  const number = kinds.find((kind) => kind.type === "integer" || kind.type === "number");
  const isFlag = kinds.some((kind) => kind.type === "boolean");
  const standard = String(page.card?.diffusion?.[name] ?? (name === "preset" ? page.card?.preset ?? "" : ""));
  let input;
  if (isFlag) input = make("input", { type: "checkbox", checked: page.settings[name] ?? false });
  else if (choices.length && !number) input = make("select", {}, make("option", { value: "", textContent: standard ? `${standard} (default)` : "default" }), ...choices.map((value) => make("option", { value, textContent: value })));
  else input = make("input", { type: "text", inputMode: "decimal", placeholder: standard || "default" });
  if (!isFlag) input.value = page.settings[name] ?? "";
  input.onchange = () => {
    const text = isFlag ? input.checked : input.value.trim();
    if (text === "" || text === false) delete page.settings[name];
    else page.settings[name] = number && text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
  };
  return field(name, name.replaceAll("_", " "), input, schema.description ?? "");
}

function field(name, title, input, told) {
  Object.assign(input, { id: `setting-${name}` });
  input.setAttribute("aria-describedby", `told-${name}`);
  const label = make("label", { textContent: title, htmlFor: input.id });
  return make("div", { className: "field" }, label, input, make("p", { id: `told-${name}`, textContent: told }));
}

// An answer as a GIF: pictures on the left, its steps on the right, in the colours of the page

async function shareGif(run) {
  const turn = page.turns.find((each) => each.runs.includes(run));
  const images = await Promise.all(turn.pictures.map((src) => new Promise((done) => {
    const image = make("img", { src });
    image.decode().then(() => done(image));
  })));
  const sheet = new Sheet(turn.question, run.frames, run.length, images);
  const rests = [...Array(run.frames.length + 1).keys()];
  const wait = Math.min(50, Math.max(6, Math.round((100 * REPLAY_SECONDS) / rests.length)));
  const pictures = rests.map((at) => sheet.frame(at));
  const file = encodeGif(pictures, rests.map((at) => (at === run.frames.length ? 250 : wait)));
  const name = `${turn.question.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40)}.gif`;
  const shared = new File([file], name, { type: "image/gif" });
  if (navigator.canShare?.({ files: [shared] }) && matchMedia("(pointer: coarse)").matches) return navigator.share({ files: [shared] }).catch(() => {});
  const link = make("a", { href: URL.createObjectURL(shared), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

class Sheet {
  constructor(question, frames, length, images) {
    const style = getComputedStyle(document.body);
    const probe = make("i");
    document.body.append(probe);
    this.colour = (value) => {
      probe.style.color = value;
      const context = (this.probe ??= make("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true }));
      context.fillStyle = getComputedStyle(probe).color;
      context.fillRect(0, 0, 1, 1);
      return `rgb(${context.getImageData(0, 0, 1, 1).data.slice(0, 3).join()})`;
    };
    this.colours = Object.fromEntries(["paper", "card", "ink", "soft", "fog", "low", "mid", "high"].map((name) => [name, this.colour(`var(--${name})`)]));
    probe.remove();
    Object.assign(this, { frames, length, images, serif: style.getPropertyValue("--serif") });
    this.side = images.length ? 300 : 0;
    this.left = images.length ? this.side + 48 : 28;
    this.width = this.left + 452;
    this.canvas = make("canvas", { width: this.width, height: 10 });
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.font(19);
    this.question = this.lines(question, 424);
    this.top = 30 + 26 * this.question.length + 14;
    const heights = images.map((image) => (this.side * image.naturalHeight) / image.naturalWidth);
    const pictures = heights.reduce((sum, height) => sum + height + 10, 0);
    const rows = Math.max(...[0, frames.length].map((at) => this.place(at).at(-1)?.y ?? 0)) + 34;
    this.canvas.height = Math.round(Math.max(this.top + rows + 24, pictures + 46, 200));
    this.heights = heights;
  }

  font(size) { this.context.font = `${size}px ${this.serif}`; }

  lines(text, width) {
    const found = [""];
    for (const word of text.split(/\s+/)) {
      const longer = found.at(-1) ? `${found.at(-1)} ${word}` : word;
      if (found.at(-1) && this.context.measureText(longer).width > width) found.push(word);
      else found[found.length - 1] = longer;
    }
    return found;
  }

  tokens(at) { return at ? this.frames[at - 1].tokens : Array(this.length).fill({ text: "", state: "masked" }); }

  place(at) {
    this.font(22);
    let x = 0, y = 0;
    return this.tokens(at).map((token) => {
      const text = token.state === "masked" ? "" : token.text.trim();
      const gap = token.state !== "masked" && /^\s/.test(token.text) ? 6 : 2;
      const width = token.state === "masked" ? 26 : this.context.measureText(text).width + 6;
      if (x && (x + gap + width > 424 || token.text.includes("\n"))) (x = 0), (y += 36);
      const box = { x: x + (x ? gap : 0), y, width, text, token };
      x = box.x + width;
      return box;
    });
  }

  frame(at) {
    const { context, canvas, colours } = this;
    context.fillStyle = colours.card;
    context.fillRect(0, 0, canvas.width, canvas.height);
    let down = 28;
    this.images.forEach((image, n) => {
      context.imageSmoothingEnabled = image.naturalWidth > 200;
      context.drawImage(image, 24, down, this.side, this.heights[n]);
      down += this.heights[n] + 10;
    });
    context.textBaseline = "middle";
    context.fillStyle = colours.soft;
    this.font(19);
    this.question.forEach((line, n) => context.fillText(line, this.left, 38 + 26 * n));
    for (const box of this.place(at)) {
      const [x, y] = [this.left + box.x, this.top + box.y];
      const isMasked = box.token.state === "masked", sure = box.token.probability ?? 1;
      context.fillStyle = isMasked ? colours.fog : mixed(sure < 0.5 ? colours.low : colours.mid, sure < 0.5 ? colours.mid : colours.high, sure < 0.5 ? 2 * sure : 2 * sure - 1);
      context.globalAlpha = isMasked ? 1 : 0.34;
      context.beginPath();
      context.roundRect(x, y, box.width, 29, 7);
      context.fill();
      context.globalAlpha = 1;
      if (isMasked) continue;
      context.fillRect(x, y + 27, box.width, 2);
      context.fillStyle = colours.ink;
      this.font(22);
      context.fillText(box.text, x + 3, y + 14);
    }
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }
}

function mixed(low, high, share) {
  const [a, b] = [low, high].map((colour) => colour.match(/\d+/g).map(Number));
  return `rgb(${a.map((value, n) => Math.round(value + share * (b[n] - value))).join()})`;
}

// GIF89a: one palette of the colours that occur most, every picture packed by LZW.
function encodeGif(pictures, waits) {
  const { width, height } = pictures[0];
  const short = (value) => [value & 255, value >> 8];
  const { palette, indexOf } = paletteOf(pictures);
  const parts = [Uint8Array.from([..."GIF89a"].map((letter) => letter.charCodeAt(0))),
    Uint8Array.from([...short(width), ...short(height), 0xf7, 0, 0, ...palette]),
    Uint8Array.from([0x21, 0xff, 11, ...[..."NETSCAPE2.0"].map((letter) => letter.charCodeAt(0)), 3, 1, 0, 0, 0])];
  pictures.forEach((picture, number) => {
    const indices = new Uint8Array(width * height);
    const words = new Uint32Array(picture.data.buffer);
    for (let n = 0; n < words.length; n++) indices[n] = indexOf(words[n]);
    parts.push(Uint8Array.from([0x21, 0xf9, 4, 4, ...short(waits[number]), 0, 0, 0x2c, 0, 0, 0, 0, ...short(width), ...short(height), 0, 8]), packed(indices));
  });
  return new Blob([...parts, Uint8Array.from([0x3b])], { type: "image/gif" });
}

function paletteOf(pictures) {
  const counts = new Map();
  for (const picture of [pictures[0], pictures[pictures.length >> 1], pictures.at(-1)]) {
    for (const word of new Uint32Array(picture.data.buffer)) counts.set(word & 0xf8f8f8, (counts.get(word & 0xf8f8f8) ?? 0) + 1);
  }
  const colours = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 256).map(([colour]) => colour);
  const split = (word) => [word & 255, (word >> 8) & 255, (word >> 16) & 255];
  const known = new Map(colours.map((colour, n) => [colour, n]));
  const triples = colours.map(split);
  // The five bits that are left of a channel stand for their middle, white stays white.
  const palette = [...triples, ...Array(256 - triples.length).fill([0, 0, 0])].flat().map((value) => Math.min(255, value | (value >> 5)));
  const indexOf = (word) => {
    const colour = word & 0xf8f8f8;
    let index = known.get(colour);
    if (index === undefined) {
      const [r, g, b] = split(colour);
      let least = Infinity;
      triples.forEach(([x, y, z], n) => {
        const distance = 2 * (r - x) ** 2 + 4 * (g - y) ** 2 + 3 * (b - z) ** 2;
        if (distance < least) [least, index] = [distance, n];
      });
      known.set(colour, index);
    }
    return index;
  };
  return { palette, indexOf };
}

function packed(indices) {
  const bytes = [];
  let bits = 0, filled = 0, size = 9, next = 258, prefix = indices[0];
  let codes = new Map();
  const put = (code) => {
    bits |= code << filled;
    for (filled += size; filled >= 8; filled -= 8, bits >>>= 8) bytes.push(bits & 255);
  };
  put(256);
  for (let n = 1; n < indices.length; n++) {
    const key = (prefix << 8) | indices[n], code = codes.get(key);
    if (code !== undefined) { prefix = code; continue; }
    put(prefix);
    if (next < 4096) {
      codes.set(key, next);
      if (next++ === 1 << size) size++;
    } else {
      put(256);
      codes = new Map();
      [size, next] = [9, 258];
    }
    prefix = indices[n];
  }
  put(prefix);
  put(257);
  if (filled) bytes.push(bits & 255);
  const blocks = [];
  for (let at = 0; at < bytes.length; at += 255) blocks.push(Math.min(255, bytes.length - at), ...bytes.slice(at, at + 255));
  return Uint8Array.from([...blocks, 0]);
}

// What the hand does

function submit() {
  if (page.stop) return page.stop.abort();
  const box = $("#question"), question = box.value.trim();
  if (!question) return box.focus();
  box.value = "";
  grow();
  ask(question);
}

function grow() {
  const box = $("#question");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
}

function startAgain() {
  page.stop?.abort();
  closeInspector();
  page.turns = [];
  page.pending = [];
  drawPending();
  $("#chat").replaceChildren();
  $("#start").hidden = false;
  $("#question").focus();
}

function suggest(question) {
  page.pending = [$("#demo").src];
  ask(question);
}

// The motto appears as an answer does: out of order, and then it stays.
function appearMotto() {
  const box = $("#motto"), words = box.textContent.match(/\s*\S+/g);
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  box.ariaLabel = box.textContent;
  const run = words.map((text) => {
    const cell = make("span", { ariaHidden: "true" }, "", make("span", { className: "tok mask" }));
    drawToken(cell, { text, state: "masked" });
    return cell;
  });
  box.role = "heading";
  box.setAttribute("aria-level", "2");
  box.classList.add("live");
  box.replaceChildren(...run);
  const order = [...words.keys()].sort((a, b) => ((a * 5 + 3) % 7) - ((b * 5 + 3) % 7));
  order.forEach((place, n) => setTimeout(() => run[place].replaceWith(make("span", { ariaHidden: "true", textContent: words[place] })), 500 + 260 * n));
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
}

function begin() {
  if (localStorage.getItem("theme")) setTheme(localStorage.getItem("theme"));
  for (const question of SUGGESTIONS) $("#suggestions").append(make("button", { type: "button", textContent: question, onclick: () => suggest(question) }));
  $("#composer").onsubmit = (event) => { event.preventDefault(); submit(); };
  $("#question").oninput = grow;
  $("#question").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!page.stop) submit();
  };
  $("#fresh").onclick = startAgain;
  $("#theme").onclick = () => setTheme(getComputedStyle(document.documentElement).colorScheme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches) ? "light" : "dark");
  $("#open-settings").onclick = () => $("#settings").showModal();
  $("#settings form").onsubmit = (event) => {
    event.preventDefault(); // the page's policy lets no form go anywhere, not even a dialog's
    $("#settings").close();
  };
  $("#settings").onclick = (event) => {
    if (event.target === $("#settings")) $("#settings").close();
  };
  $("#defaults").onclick = () => {
    page.settings = {};
    page.seed = page.thinks = null;
    greet();
  };
  $("#close-inspector").onclick = closeInspector;
  $("#attach").onclick = () => $("#files").click();
  $("#photograph").onclick = photograph;
  $("#shot").onclick = () => closeCamera(true);
  $("#no-shot").onclick = () => closeCamera(false);
  $("#camera").oncancel = () => closeCamera(false);
  for (const input of [$("#files"), $("#capture")]) input.onchange = () => addPictures([...input.files]).then(() => (input.value = ""));
  document.onpaste = (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) { event.preventDefault(); addPictures(files); }
  };
  let depth = 0;
  const drag = (change) => { depth = change ? Math.max(0, depth + change) : 0; document.body.classList.toggle("dragging", depth > 0); };
  document.ondragenter = () => drag(1);
  document.ondragleave = () => drag(-1);
  document.ondragover = (event) => event.preventDefault();
  document.ondrop = (event) => { event.preventDefault(); drag(0); addPictures([...event.dataTransfer.files]); };
  document.onkeydown = (event) => {
    if (event.key !== "Escape") return;
    if (page.stop) page.stop.abort();
    else closeInspector();
  };
  appearMotto();
  greet();
}

begin();
