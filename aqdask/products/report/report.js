"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { frames, maps, panels, thumbnails, reasons, edges, shape } = data;
const [height, width] = shape;
const $ = (id) => document.getElementById(id);
const GOOD = 255, SHOWN = 60;
const count = frames.frame_id.length;
const missing = (v) => v === null || v === undefined || v === "";
const number = (v, digits = 4) => missing(v) ? "–" : Math.abs(v) >= 1e5 ? v.toExponential(2) : String(+v.toPrecision(digits));
const words = (name) => (name || "").replaceAll("_", " ");
const make = (tag, text = "", attributes = {}) => {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

// --- masks: codes of reasons by patch, from PNG ---
const codeOf = new Map(reasons.map((r) => [parseInt(r.colour.slice(1), 16), r.code]));
const byCode = new Map(reasons.map((r) => [r.code, r]));
async function pixelsOf(src) {
  const image = new Image();
  image.src = src;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}
const mapSource = (i) => "data:image/png;base64," + maps[i];
async function codesOf(i) {
  const nx = edges.x.length - 1, ny = edges.y.length - 1;
  const codes = new Uint8Array(Math.max(nx * ny, 0)).fill(GOOD);
  if (!maps[i]) return frames.frame_score[i] === null ? codes.fill(0) : codes;
  const { data: rgba } = await pixelsOf(mapSource(i));
  for (let k = 0; k < nx * ny; k++) {
    const from = 4 * ((ny - 1 - Math.floor(k / nx)) * nx + (k % nx));
    if (rgba[from + 3]) codes[k] = codeOf.get((rgba[from] << 16) | (rgba[from + 1] << 8) | rgba[from + 2]) ?? 0;
  }
  return codes;
}
function outlinesOf(codes) {
  const nx = edges.x.length - 1, ny = edges.y.length - 1, lines = [];
  const masked = (y, x) => y >= 0 && y < ny && x >= 0 && x < nx && codes[y * nx + x] !== GOOD;
  for (let y = 0; y < ny; y++) for (let x = 0; x < nx; x++) {
    if (!masked(y, x)) continue;
    const [x0, x1, y0, y1] = [edges.x[x], edges.x[x + 1], edges.y[y], edges.y[y + 1]];
    const colour = byCode.get(codes[y * nx + x])?.colour ?? "#9a9a9a";
    if (!masked(y - 1, x)) lines.push([x0, y0, x1, y0, colour]);
    if (!masked(y + 1, x)) lines.push([x0, y1, x1, y1, colour]);
    if (!masked(y, x - 1)) lines.push([x0, y0, x0, y1, colour]);
    if (!masked(y, x + 1)) lines.push([x1, y0, x1, y1, colour]);
  }
  return lines;
}
function svgOf(lines) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-hidden", "true");
  const paths = new Map();
  for (const [x0, y0, x1, y1, colour] of lines)
    paths.set(colour, (paths.get(colour) ?? "") + `M${x0} ${height - y0}L${x1} ${height - y1}`);
  for (const [colour, d] of paths) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    path.setAttribute("stroke", colour);
    svg.append(path);
  }
  return svg;
}

// --- cards ---
const isFlagged = (i) => Boolean(frames.is_flagged[i]);
const scoreOf = (i) => `score ${number(frames.frame_score[i], 3)}${!missing(data.ceiling) && frames.frame_score[i] >= data.ceiling ? " (the highest)" : ""}`;
const isScored = (i) => !missing(frames.frame_score[i]);
function verdictOf(i) {
  if (isFlagged(i)) return ["flagged", "flagged" + (frames.flag_reason[i] ? ": " + words(frames.flag_reason[i]) : "")];
  if (isScored(i)) return ["good", "not flagged"];
  return ["unscored", frames.state[i] === "done" ? "not scored" : frames.state[i]];
}
function cardOf(i) {
  const card = make("button", "", { type: "button", class: "card", "data-index": i });
  const picture = make("span", "", { class: "picture", style: `aspect-ratio: ${width} / ${height}` });
  const source = panels[i]?.planes.image?.src ?? thumbnails[i];
  if (source) picture.append(make("img", "", { src: source, alt: "", loading: "lazy", decoding: "async" }));
  if (maps[i] && source) codesOf(i).then((codes) => picture.append(svgOf(outlinesOf(codes))));
  else if (maps[i]) picture.append(make("img", "", { src: mapSource(i), alt: "masked patches, coloured by reason", class: "map" }));
  else if (!source) picture.append(make("span", isScored(i) ? "nothing masked" : "no score", { class: "empty" }));
  const [kind, text] = verdictOf(i);
  const masked = frames.masked_patches[i];
  const facts = [frames.time[i]?.replace("T", " "), frames.filter[i]].filter(Boolean).join(" · ");
  const detail = isScored(i) ? `${scoreOf(i)} · ${number(100 * masked, 2)}% masked` : frames.state_reason[i];
  const main = frames.main_reason[i] && masked > 0 && frames.main_reason[i] !== frames.flag_reason[i] ? "mostly " + words(frames.main_reason[i]) : "";
  card.append(picture, make("span", frames.frame_id[i], { class: "name" }), make("span", text, { class: "chip " + kind }),
    make("span", [detail, main].filter(Boolean).join(" · "), { class: "detail" }), make("span", facts, { class: "detail" }));
  const mine = labelsOf(i);
  if (mine.length) card.append(make("span", "labelled " + mine.map((l) => l.verdict + (l.box ? " (box)" : "")).join(", "), { class: "detail mine" }));
  return card;
}

// --- labels: kept by the browser, beyond this visit until they are saved as a file for `aqdask label --from` ---
const labels = new Map();
const positions = new Map(frames.frame_id.map((name, i) => [name, i]));
const storeKey = "aqdask-labels:" + data.place + ":" + data.quality;
try {
  for (const l of JSON.parse(localStorage.getItem(storeKey) ?? "[]")) {
    const i = positions.get(l.frame_id);
    if (i !== undefined) labels.set(i, [...(labels.get(i) ?? []), l]);
  }
} catch { /* a browser without storage keeps them in this page only */ }
const stored = new Map(); // those of the archive
for (const l of data.stored) stored.set(positions.get(l.frame_id), [...(stored.get(positions.get(l.frame_id)) ?? []), l]);
function labelsOf(i) { // the last one on each frame and box counts
  const last = new Map([...(stored.get(i) ?? []), ...(labels.get(i) ?? [])].map((l) => [String(l.box), l]));
  return [...last.values()].filter((l) => l.verdict !== "removed");
}
const labelFile = () => ({ aqdask_labels: 1, archive: data.archive, labels: [...labels.values()].flat() });
function labelsChanged() {
  for (const [i, list] of labels) if (!list.length) labels.delete(i);
  try { localStorage.setItem(storeKey, JSON.stringify(labelFile().labels)); } catch { /* as above */ }
  $("labelled").textContent = [...labels.values()].flat().length;
  $("save").hidden = labels.size === 0;
}
function addLabel(i, verdict, box = null) { // "removed" takes one back; what the archive says already is not saved
  const isSame = (l) => String(l.box) === String(box), before = stored.get(i)?.find(isSame)?.verdict ?? "removed";
  const mine = { frame_id: frames.frame_id[i], verdict, box, note: "", pixels: frames.crc32c[i] };
  labels.set(i, [...(labels.get(i) ?? []).filter((l) => !isSame(l)), ...(verdict === before ? [] : [mine])]);
  labelsChanged();
}
$("save").addEventListener("click", () => {
  const blob = new Blob([JSON.stringify(labelFile(), null, 1)], { type: "application/json" });
  const link = make("a", "", { href: URL.createObjectURL(blob), download: data.archive + "-labels.json" });
  link.click();
  URL.revokeObjectURL(link.href);
  try { localStorage.removeItem(storeKey); } catch { /* as above */ }
});

// --- gallery ---
let order = [...Array(count).keys()], shown = SHOWN;
function options(id, column) {
  for (const value of [...new Set(frames[column])].filter(Boolean).sort()) $(id).append(make("option", words(value), { value }));
}
const compared = (a, b) => a === b ? 0 : a - b; // also of two infinities
const sorts = {
  time: null, name: (a, b) => frames.frame_id[a].localeCompare(frames.frame_id[b], undefined, { numeric: true }),
  score: (a, b) => compared(frames.frame_score[b] ?? -Infinity, frames.frame_score[a] ?? -Infinity) || sorts.masked(a, b),
  best: (a, b) => compared(frames.frame_score[a] ?? Infinity, frames.frame_score[b] ?? Infinity) || sorts.masked(b, a),
  masked: (a, b) => (frames.masked_patches[b] ?? -1) - (frames.masked_patches[a] ?? -1),
};
const states = { flagged: isFlagged, good: (i) => isScored(i) && !isFlagged(i), unscored: (i) => !isScored(i), labelled: (i) => labelsOf(i).length > 0 };
function filter() {
  const value = (name) => $("f-" + name).value;
  const text = value("text").toLowerCase(), state = states[value("state")];
  order = [...Array(count).keys()].filter((i) =>
    (!state || state(i)) &&
    (!value("reason") || frames.main_reason[i] === value("reason") || frames.flag_reason[i] === value("reason")) &&
    (!value("camera") || frames.camera[i] === value("camera")) && (!value("filter") || frames.filter[i] === value("filter")) &&
    (!value("from") || (frames.time[i] ?? "") >= value("from")) && (!value("to") || (frames.time[i] ?? "~") <= value("to") + ":59") &&
    (!text || ["frame_id", "camera", "filter", "state", "state_reason", "flag_reason", "main_reason"].some((n) => (frames[n]?.[i] ?? "").toLowerCase().includes(text))));
  const by = sorts[value("sort")];
  if (by) order.sort((a, b) => by(a, b) || a - b);
  shown = SHOWN;
  showCards();
}
function showCards() {
  const list = $("frames");
  list.replaceChildren(...order.slice(0, shown).map((i) => { const item = make("li"); item.append(cardOf(i)); return item; }));
  $("more").hidden = order.length <= shown;
  $("found").textContent = order.length === count ? `${count} frame${count === 1 ? "" : "s"}` : `${order.length} of ${count} frames`;
}
document.addEventListener("click", (event) => {
  const card = event.target.closest(".card");
  if (card) open(+card.dataset.index);
});
if (count) {
  options("f-reason", "main_reason"); options("f-camera", "camera"); options("f-filter", "filter");
  for (const value of new Set(frames.flag_reason)) if (value && ![...$("f-reason").options].some((o) => o.value === value)) $("f-reason").append(make("option", words(value), { value }));
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("reset", () => setTimeout(filter));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("more").addEventListener("click", () => { shown += SHOWN; showCards(); });
}

// --- theme ---
function restyle() {
  const style = getComputedStyle(document.documentElement);
  const [ink, line] = ["--ink", "--line"].map((name) => style.getPropertyValue(name).trim());
  const colours = { axis_label_text_color: ink, major_label_text_color: ink, title_text_color: ink, axis_line_color: line,
    major_tick_line_color: line, minor_tick_line_color: null, grid_line_color: line, background_fill_alpha: 0 };
  for (const plot of Bokeh.documents.flatMap((doc) => doc.roots())) {
    plot.outline_line_color = line;
    for (const model of [...plot.below, ...plot.left, ...plot.right, ...plot.center])
      model.setv(Object.fromEntries(Object.entries(colours).filter(([name]) => name in model.properties)));
  }
}
const dark = matchMedia("(prefers-color-scheme: dark)");
function setTheme(isDark) {
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", isDark);
  restyle();
}
$("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
dark.addEventListener("change", (event) => setTheme(event.matches));

// --- one frame ---
let current = -1, viewer = null, view = { planes: {}, codes: [] }, verdict = "bad";
const panel = $("panel");
async function embed(id) {
  const embedded = JSON.parse($(id).textContent);
  if (!embedded) return;
  await Bokeh.embed.embed_items(embedded.documents, [embedded.item]);
  restyle();
  return Bokeh.documents.at(-1);
}
async function levelsOf(plane) {
  const { data: rgba, width: w, height: h } = await pixelsOf(plane.src);
  const least = plane.src.startsWith("data:image/jpeg") ? 1 : 0, levels = new Uint8Array(w * h);
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) levels[(h - 1 - y) * w + x] = Math.max(rgba[4 * (y * w + x)], least);
  return { ...plane, levels, w, h };
}
const levelAt = (plane, x, y) => plane.levels[Math.floor(y / plane.size[1] * plane.h) * plane.w + Math.floor(x / plane.size[0] * plane.w)];
function valueAt(plane, x, y) {
  const level = levelAt(plane, x, y);
  if (!level) return null;
  let unit = (level - 1) / 254;
  if (plane.asinh) unit = Math.sinh(unit * Math.asinh(10)) / 10;
  return plane.low + unit * (plane.high - plane.low);
}
const unitOf = (name, plane) => plane.unit ?? data.planes[name].unit;
function readingAt(plane, x, y, unit = "") { // the ends of a scale stand for all values beyond; JPEG moves levels a little
  const level = levelAt(plane, x, y), margin = plane.src.startsWith("data:image/jpeg") ? 1 : 0;
  if (!level) return null;
  if (plane.high > plane.low && level >= 255 - margin) return `≥ ${number(plane.high, 3)}${unit} (clipped)`;
  if (plane.high > plane.low && level <= 1 + margin) return `≤ ${number(plane.low, 3)}${unit} (clipped)`;
  return "≈ " + number(valueAt(plane, x, y), 3) + unit;
}
async function open(i) {
  if (i === undefined || i < 0) return;
  current = i;
  if (!panel.open) panel.showModal();
  describe(i);
  viewer ??= await (viewerReady ??= embed("viewer"));
  const found = panels[i], names = Object.keys(data.planes).filter((name) => found?.planes[name]);
  const [codes, ...planes] = await Promise.all([codesOf(i), ...names.map((name) => levelsOf(found.planes[name]))]);
  if (current !== i) return;
  view = { planes: Object.fromEntries(names.map((name, k) => [name, planes[k]])), codes };
  for (const name of Object.keys(data.planes)) {
    const plane = view.planes[name], slot = $("slot-" + name), source = viewer.get_model_by_name("plane-" + name);
    slot.hidden = !plane;
    if (!plane) continue;
    const Grid = source.data.image[0].constructor; // Bokeh's own 2-D array
    source.data = { image: [new Grid(plane.levels, [plane.h, plane.w])], dw: [plane.size[0]], dh: [plane.size[1]] };
    slot.querySelector(".unit").textContent = unitOf(name, plane);
    slot.querySelector(".low").textContent = number(plane.low, 3);
    slot.querySelector(".high").textContent = number(plane.high, 3);
  }
  showMask();
  panel.dataset.shown = i;
}
let viewerReady = null;
const columns = (rows, names) => Object.fromEntries(names.map((name, k) => [name, rows.map((row) => row[k])]));
const CORNERS = ["x0", "y0", "x1", "y1", "colour"];
function showMask() {
  const nx = edges.x.length - 1, patches = [];
  view.codes.forEach((code, k) => {
    const [y, x] = [Math.floor(k / nx), k % nx];
    if (code !== GOOD) patches.push([edges.x[x], edges.y[y], edges.x[x + 1], edges.y[y + 1], byCode.get(code)?.colour ?? "#9a9a9a"]);
  });
  const isOn = $("p-outlines").getAttribute("aria-pressed") === "true";
  viewer.get_model_by_name("patches").data = columns(patches, CORNERS);
  viewer.get_model_by_name("outlines").data = columns(isOn ? outlinesOf(view.codes) : [], CORNERS);
  const boxes = labelsOf(current).filter((l) => l.box).map((l) => [...l.box, l.verdict === "bad" ? "#d55e00" : "#009e73"]);
  viewer.get_model_by_name("boxes").data = columns(boxes, CORNERS);
  const shares = new Map();
  for (const code of view.codes) if (code !== GOOD) shares.set(code, (shares.get(code) ?? 0) + 1);
  $("p-reasons").replaceChildren(...[...shares].sort((a, b) => b[1] - a[1]).map(([code, n]) => {
    const reason = byCode.get(code), item = make("span", "", { title: reason.meaning });
    item.append(make("span", "", { class: "dot", style: `background: ${reason.colour}` }), `${words(reason.name)} ${number(100 * n / view.codes.length, 2)}%`);
    return item;
  }));
  if (!shares.size) $("p-reasons").textContent = "nothing masked";
}
function describe(i) {
  const [kind, text] = verdictOf(i);
  $("p-name").textContent = frames.frame_id[i];
  $("p-chips").replaceChildren(make("span", text, { class: "chip " + kind }));
  const facts = [frames.time[i]?.replace("T", " "), frames.camera[i], frames.filter[i] && "filter " + frames.filter[i]].filter(Boolean);
  const masked = isScored(i) ? `${scoreOf(i)}, ${number(100 * frames.masked_patches[i], 2)}% of the patches masked` : frames.state_reason[i];
  $("p-why").textContent = [...facts, masked].filter(Boolean).join(" · ");
  $("p-flag").textContent = frames.why[i];
  $("p-flag").className = kind;
  $("p-said").textContent = $("said").textContent = "";
  const found = panels[i];
  $("p-note").textContent = [found ? found.problem : !frames.has_pixels[i] ? "The archive holds no pixels of this frame." : "The pixels of this frame are not in this report: `aqdask report` with --frames " + frames.frame_id[i] + " adds them."].filter(Boolean).join(" · ");
  $("p-readout").textContent = "Point at a picture for position and values.";
  const rows = data.facts.filter(([name]) => !missing(frames[name][i])).map(([name, told, meaning]) => {
    const row = make("tr"), value = frames[name][i];
    row.append(make("th", told, { scope: "row", title: meaning }), make("td", typeof value === "number" ? number(value, 6) : words(String(value))));
    return row;
  });
  $("p-facts").tBodies[0].replaceChildren(...rows);
  showVerdict();
}
function showVerdict() {
  const valid = labelsOf(current), whole = valid.find((l) => !l.box)?.verdict;
  $("p-labels").textContent = (stored.get(current) ?? []).map((l) => l.told + (l.box ? " (box)" : "") + (valid.includes(l) ? "" : ", changed here: save the labels")).join("; ");
  $("p-good").setAttribute("aria-pressed", whole === "good");
  $("p-bad").setAttribute("aria-pressed", whole === "bad");
}
function skyAt(x, y) {
  const nodes = panels[current]?.sky;
  if (!nodes) return "";
  const n = nodes.length - 1, [u, v] = [x / Math.max(width - 1, 1) * n, y / Math.max(height - 1, 1) * n];
  const [i, j] = [Math.min(Math.max(Math.floor(v), 0), n - 1), Math.min(Math.max(Math.floor(u), 0), n - 1)];
  const [s, t] = [v - i, u - j];
  const [a, b, c] = [0, 1, 2].map((k) => (1 - s) * ((1 - t) * nodes[i][j][k] + t * nodes[i][j + 1][k]) + s * ((1 - t) * nodes[i + 1][j][k] + t * nodes[i + 1][j + 1][k]));
  const ra = ((Math.atan2(b, a) * 12 / Math.PI) + 24) % 24, dec = Math.atan2(c, Math.hypot(a, b)) * 180 / Math.PI;
  const parts = (value, digits, steps) => {
    const unit = Math.round(value * 3600 * 10 ** digits), whole = 10 ** digits;
    const seconds = ((unit % (60 * whole)) / whole).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
    return `${String(Math.floor(unit / (3600 * whole)) % steps).padStart(2, "0")}:${String(Math.floor(unit / (60 * whole)) % 60).padStart(2, "0")}:${seconds}`;
  };
  return `RA ${parts(ra, 2, 24)}  Dec ${dec < 0 ? "−" : "+"}${parts(Math.abs(dec), 1, 360)}`;
}
function point(x, y) {
  if (x === undefined || !(x >= 0 && x < width && y >= 0 && y < height)) return;
  const within = (list, value) => list.findIndex((edge, k) => edge <= value && value < list[k + 1]);
  const code = edges.x.length ? view.codes[within(edges.y, y) * (edges.x.length - 1) + within(edges.x, x)] : GOOD;
  const values = Object.entries(view.planes).map(([name, plane]) => [data.planes[name].title, readingAt(plane, x, y, (" " + unitOf(name, plane)).trimEnd())])
    .filter(([, text]) => text !== null).map(([title, text]) => `${title} ${text}`);
  $("p-readout").textContent = [`x ${Math.floor(x)}  y ${Math.floor(y)} px`, skyAt(x, y), code === GOOD ? "not masked" : "masked: " + words(byCode.get(code)?.name), ...values].filter(Boolean).join(" · ");
}
function step(by, wanted = () => true, what = "frame") {
  const from = order.indexOf(current);
  const list = by > 0 ? order.slice(from + 1) : order.slice(0, Math.max(from, 0)).reverse();
  const next = list.find(wanted);
  if (next === undefined) $(panel.open ? "p-said" : "said").textContent = `No ${by > 0 ? "further" : "earlier"} ${what} in the list of all frames${order.length < count ? ", as it is filtered" : ""}.`;
  else open(next);
}
function draw(event) {
  if (!event.final || event.geometry.type !== "rect") return;
  const { x0, x1, y0, y1 } = event.geometry, clip = (v, top) => Math.min(Math.max(Math.round(v), 0), top);
  const box = [clip(Math.min(x0, x1), width), clip(Math.min(y0, y1), height), clip(Math.max(x0, x1), width), clip(Math.max(y0, y1), height)];
  if (box[2] > box[0] && box[3] > box[1]) addLabel(current, verdict, box);
  setDrawing(false);
  showMask();
}
function setDrawing(isOn) {
  $("p-box").setAttribute("aria-pressed", isOn);
  for (const plot of viewer.roots()) for (const tool of plot.toolbar.tools) {
    if (tool.name === "draw") tool.active = isOn;
    if (tool.type === "PanTool") tool.active = !isOn;
  }
}
function judge(which) {
  verdict = which;
  addLabel(current, labelsOf(current).find((l) => !l.box)?.verdict === which ? "removed" : which);
  showVerdict();
}
$("p-good").addEventListener("click", () => judge("good"));
$("p-bad").addEventListener("click", () => judge("bad"));
$("p-clear").addEventListener("click", () => { for (const l of labelsOf(current)) addLabel(current, "removed", l.box); showVerdict(); showMask(); });
$("p-box").addEventListener("click", () => setDrawing($("p-box").getAttribute("aria-pressed") !== "true"));
$("p-outlines").addEventListener("click", (event) => { event.target.setAttribute("aria-pressed", event.target.getAttribute("aria-pressed") !== "true"); showMask(); });
$("p-reset").addEventListener("click", () => { const plot = viewer.roots()[0]; plot.x_range.setv({ start: 0, end: width }); plot.y_range.setv({ start: 0, end: height }); });
$("p-next").addEventListener("click", () => step(1));
$("p-previous").addEventListener("click", () => step(-1));
$("p-flagged").addEventListener("click", () => step(1, isFlagged, "flagged frame"));
$("p-close").addEventListener("click", () => panel.close());
panel.addEventListener("close", () => { if (count) showCards(); });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const keys = { n: () => step(1), p: () => step(-1), f: () => step(1, isFlagged, "flagged frame"), ...(panel.open ? { ArrowRight: () => step(1), ArrowLeft: () => step(-1) } : {}) };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});

for (const item of document.querySelectorAll("#extremes li")) item.append(cardOf(+item.dataset.index));
if (count) filter();
labelsChanged();
window.aqdask = { open, point, draw, labelFile, codesOf };
setTheme(dark.matches);
// plots of 10,000 frames take seconds: texts and gallery are shown before
const whenReady = () => setTimeout(() => embed("figures").then(() => { document.documentElement.dataset.ready = "yes"; }), 50);
document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", whenReady) : whenReady();
