"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // ---------------------------------------------------------------- light and dark

  const themes = ["auto", "light", "dark"];
  const themeButton = at("theme");
  function setTheme(name) {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    themeButton.textContent = `Theme: ${name}`;
    themeButton.dataset.name = name;
  }
  themeButton.addEventListener("click", () => {
    setTheme(themes[(themes.indexOf(themeButton.dataset.name) + 1) % themes.length]);
  });
  setTheme("auto");
  themeButton.hidden = false;
  document.documentElement.classList.add("scripted");

  // ---------------------------------------------------------------- tables

  function numberIn(text) {
    const match = text.replace(/\u2212/g, "-").match(/^\s*[+-]?\d*\.?\d+/);
    return match ? Number(match[0]) : NaN;
  }

  // Numbers by value, words by the alphabet, and what has no value last, whichever way.
  function compare(a, b, sign) {
    const x = numberIn(a), y = numberIn(b);
    if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
    const isLast = [a, b].map((text) => ["", "n/a", "-"].includes(text.trim()));
    if (isLast[0] || isLast[1]) return isLast[0] - isLast[1];
    return sign * a.localeCompare(b, "en", { numeric: true });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    for (const cell of body.querySelectorAll("td")) {
      if (cell.textContent.length > 40) cell.classList.add("long");
    }
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const upwards = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", upwards ? "ascending" : "descending");
        const text = (row) => row.cells[column].textContent;
        body.append(...[...body.rows].sort((a, b) => compare(text(a), text(b), upwards ? 1 : -1)));
      });
    });
  }

  // ---------------------------------------------------------------- photos

  const entries = [...document.querySelectorAll(".entry")];
  if (entries.length === 0) {
    at("photos").hidden = true;
    return;
  }
  const stage = at("stage"), divider = at("divider"), message = at("message"), strip = at("strip");
  const sides = ["left", "right"].map((name) => ({
    name, pane: at(`${name}-pane`), choice: at(`${name}-choice`), caption: at(`${name}-caption`), plane: null,
  }));
  const tilesOf = new Map();
  for (const tile of document.querySelectorAll('script[type="image/jpeg"]')) {
    const key = `${tile.dataset.entry}/${tile.dataset.layer}`;
    tilesOf.set(key, [...(tilesOf.get(key) || []), tile]);
  }

  let current = -1;
  let size = null; // of the whole picture in pixels, null where there is none
  let zoom = 1, left = 0, top = 0; // CSS pixels for each of the picture, and where its corner lies
  let isFitted = true;
  let cut = 0.5; // where the divider is, of the picture's visible width
  let urls = [];

  const captionsOf = (entry) => [...entry.querySelectorAll("figcaption")].map((each) => each.textContent);
  const thumbnailsOf = (entry) => [...entry.querySelectorAll(".thumbnails img")];

  function blobUrl(tile) {
    const text = atob(tile.textContent);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const url = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
    urls.push(url);
    return url;
  }

  function picture(place, source) {
    const [x, y, width, height] = place;
    const image = new Image();
    image.alt = "";
    image.draggable = false;
    Object.assign(image.style, { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` });
    image.src = source;
    return image;
  }

  // Lay a layer's pictures over its thumbnail, which is there at once.
  function show(side, layer) {
    const entry = entries[current];
    const plane = document.createElement("div");
    plane.className = "plane";
    Object.assign(plane.style, { width: `${size.width}px`, height: `${size.height}px` });
    plane.append(picture([0, 0, size.width, size.height], thumbnailsOf(entry)[layer].src));
    side.caption.textContent = captionsOf(entry)[layer];
    side.pane.replaceChildren(plane);
    side.plane = plane;
    const shown = current;
    const loading = (tilesOf.get(`${current + 1}/${layer}`) || []).map((tile) => {
      const place = tile.dataset.place.split(" ").map(Number);
      const image = picture(place, blobUrl(tile));
      return image.decode().then(() => {
        plane.append(image);
        if (place[2] < size.width || place[3] < size.height) plane.append(frameAround(place));
      });
    });
    side.pane.setAttribute("aria-busy", "true");
    Promise.all(loading).then(
      () => side.pane.setAttribute("aria-busy", "false"),
      () => { if (shown === current) tell("This browser cannot show the picture."); },
    );
    draw();
  }

  function frameAround([x, y, width, height]) {
    const frame = document.createElement("div");
    frame.className = "frame";
    Object.assign(frame.style, { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` });
    return frame;
  }

  function tell(words) {
    message.textContent = words;
    message.hidden = false;
  }

  function select(index, { focus = false } = {}) {
    index = clamp(index, 0, entries.length - 1);
    if (index === current) return;
    current = index;
    const entry = entries[current];
    entries.forEach((each, number) => each.classList.toggle("current", number === current));
    [...strip.children].forEach((button, number) => {
      button.setAttribute("aria-current", String(number === current));
      if (number !== current) return;
      strip.scrollLeft = clamp(strip.scrollLeft, button.offsetLeft + button.offsetWidth - strip.offsetLeft - strip.clientWidth + 8,
        button.offsetLeft - strip.offsetLeft - 8);
      if (focus) button.focus({ preventScroll: true });
    });
    at("place").textContent = `${current + 1} / ${entries.length}`;
    at("previous").disabled = current === 0;
    at("next").disabled = current === entries.length - 1;
    for (const url of urls) URL.revokeObjectURL(url);
    urls = [];
    message.hidden = true;
    size = entry.dataset.width ? { width: Number(entry.dataset.width), height: Number(entry.dataset.height) } : null;
    const captions = captionsOf(entry);
    const chosen = [0, Math.min(Number(entry.dataset.after || 0), captions.length - 1)];
    divider.hidden = captions.length < 2;
    for (const [number, side] of sides.entries()) {
      side.choice.hidden = captions.length <= 2;
      side.caption.hidden = captions.length > 2;
      side.choice.replaceChildren(...captions.map((caption, layer) => new Option(caption, String(layer))));
      side.choice.value = String(chosen[number]);
      side.pane.replaceChildren();
      side.caption.textContent = "";
      side.plane = null;
    }
    for (const id of ["fit", "full", "zoom-in", "zoom-out"]) at(id).disabled = size === null;
    shape();
    if (size === null) {
      tell(entry.querySelector(".box.failed p")?.textContent || "There is no picture of this photo here.");
      at("zoom").textContent = "";
      return;
    }
    isFitted = true;
    cut = 0.5;
    fit();
    if (captions.length === 1) show(sides[1], 0);
    else sides.forEach((side, number) => show(side, chosen[number]));
  }

  // ---------------------------------------------------------------- zoom, pan, divider

  const fittingZoom = () => Math.min(stage.clientWidth / size.width, stage.clientHeight / size.height);
  const fullZoom = () => 1 / window.devicePixelRatio;

  // Along one axis: a picture that is smaller than the stage is centred, a larger one covers it.
  function placed(start, length, room) {
    return length <= room ? (room - length) / 2 : clamp(start, room - length, 0);
  }

  // No higher than the picture needs: bars above and below it would only push the facts away.
  function shape() {
    stage.style.maxHeight = size === null ? "" : `${Math.max(stage.clientWidth * size.height / size.width, 260)}px`;
  }

  function fit() {
    isFitted = true;
    zoom = fittingZoom();
    draw();
  }

  // Change the zoom; the picture's point at (x, y) of the stage stays there.
  function zoomTo(value, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    if (size === null) return;
    const smallest = Math.min(fittingZoom(), fullZoom());
    const next = clamp(value, smallest, Math.max(16 * fullZoom(), fittingZoom()));
    left = x - (x - left) * next / zoom;
    top = y - (y - top) * next / zoom;
    zoom = next;
    isFitted = Math.abs(zoom - fittingZoom()) < 1e-6;
    draw();
  }

  // At 100 %, begin where there is most to see: in the part that is here at full resolution.
  function showFull() {
    const [x, y, width, height] = sharpestPlace();
    const wasFitted = isFitted;
    zoomTo(fullZoom());
    if (wasFitted) {
      left = stage.clientWidth / 2 - (x + width / 2) * zoom;
      top = stage.clientHeight / 2 - (y + height / 2) * zoom;
      draw();
    }
  }

  function sharpestPlace() {
    const tiles = tilesOf.get(`${current + 1}/0`) || [];
    const last = tiles[tiles.length - 1];
    return last ? last.dataset.place.split(" ").map(Number) : [0, 0, size.width, size.height];
  }

  function visible() {
    return [Math.max(left, 0), Math.min(left + size.width * zoom, stage.clientWidth)];
  }

  function draw() {
    if (size === null) return;
    left = placed(left, size.width * zoom, stage.clientWidth);
    top = placed(top, size.height * zoom, stage.clientHeight);
    const ratio = window.devicePixelRatio;
    const [x, y] = [left, top].map((value) => Math.round(value * ratio) / ratio);
    for (const side of sides) {
      if (side.plane === null) continue;
      side.plane.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
      side.plane.classList.toggle("sharp", zoom * ratio > 1.99);
    }
    const [start, end] = visible();
    const place = divider.hidden ? start : start + cut * (end - start);
    sides[0].pane.style.clipPath = `inset(0 ${stage.clientWidth - place}px 0 0)`;
    sides[1].pane.style.clipPath = `inset(0 0 0 ${place}px)`;
    divider.style.left = `${place}px`;
    divider.setAttribute("aria-valuenow", String(Math.round(100 * cut)));
    divider.setAttribute("aria-valuetext", `${Math.round(100 * cut)} % ${sides[0].caption.textContent}`);
    at("zoom").textContent = `${Math.round(100 * zoom * ratio)} %`;
    at("fit").setAttribute("aria-pressed", String(isFitted));
    at("full").setAttribute("aria-pressed", String(Math.abs(zoom * ratio - 1) < 1e-6));
    stage.classList.toggle("zoomed", zoom > fittingZoom() + 1e-6);
  }

  function cutAt(x) {
    const [start, end] = visible();
    cut = clamp((x - start) / Math.max(end - start, 1), 0, 1);
    draw();
  }

  function moveCut(step) {
    cut = clamp(cut + step, 0, 1);
    draw();
  }

  const fingers = new Map();
  let dragging = null; // "divider" or "picture"

  function stagePoint(event) {
    const box = stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  function pinch() {
    const [a, b] = [...fingers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) };
  }

  stage.addEventListener("pointerdown", (event) => {
    if (size === null || (event.pointerType === "mouse" && event.button !== 0)) return;
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, stagePoint(event));
    if (fingers.size > 1) {
      dragging = "picture";
      return;
    }
    const isOnDivider = divider.contains(event.target);
    const isZoomed = stage.classList.contains("zoomed");
    dragging = !divider.hidden && (isOnDivider || !isZoomed) ? "divider" : "picture";
    if (isOnDivider) divider.focus({ preventScroll: true });
    stage.classList.add("dragging");
    event.preventDefault();
  });

  stage.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (before === undefined || size === null) return;
    const point = stagePoint(event);
    if (fingers.size === 2) {
      const old = pinch();
      fingers.set(event.pointerId, point);
      const now = pinch();
      left += now.x - old.x;
      top += now.y - old.y;
      zoomTo(zoom * now.apart / Math.max(old.apart, 1), now.x, now.y);
      return;
    }
    fingers.set(event.pointerId, point);
    if (dragging === "divider") {
      cutAt(point.x);
    } else {
      left += point.x - before.x;
      top += point.y - before.y;
      draw();
    }
  });

  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, (event) => {
      fingers.delete(event.pointerId);
      dragging = fingers.size === 0 ? null : "picture";
      stage.classList.toggle("dragging", fingers.size > 0);
    });
  }

  stage.addEventListener("wheel", (event) => {
    if (size === null) return;
    event.preventDefault();
    const point = stagePoint(event);
    const lines = event.deltaMode === 1 ? 16 : 1;
    zoomTo(zoom * Math.exp(-clamp(event.deltaY * lines, -200, 200) / 300), point.x, point.y);
  }, { passive: false });

  stage.addEventListener("dblclick", (event) => {
    if (size === null || divider.contains(event.target)) return;
    const point = stagePoint(event);
    if (isFitted) zoomTo(fullZoom(), point.x, point.y);
    else fit();
  });

  divider.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 0.1 : 0.02;
    const steps = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    moveCut(steps[event.key]);
    event.preventDefault();
    event.stopPropagation();
  });

  const keys = {
    ArrowLeft: () => select(current - 1, { focus: strip.contains(document.activeElement) }),
    ArrowRight: () => select(current + 1, { focus: strip.contains(document.activeElement) }),
    ",": () => moveCut(-0.02), "[": () => moveCut(-0.02), "<": () => moveCut(-0.1), "{": () => moveCut(-0.1),
    ".": () => moveCut(0.02), "]": () => moveCut(0.02), ">": () => moveCut(0.1), "}": () => moveCut(0.1),
    "+": () => zoomTo(zoom * 1.25), "=": () => zoomTo(zoom * 1.25),
    "-": () => zoomTo(zoom / 1.25), "_": () => zoomTo(zoom / 1.25),
    0: () => size && fit(), 1: () => size && showFull(),
  };
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (target.matches("select, input, textarea")) return;
    const isScrolled = target.closest(".scroll") && event.key.startsWith("Arrow");
    if (isScrolled || !Object.hasOwn(keys, event.key)) return;
    keys[event.key]();
    event.preventDefault();
  });

  at("previous").addEventListener("click", () => select(current - 1));
  at("next").addEventListener("click", () => select(current + 1));
  at("fit").addEventListener("click", fit);
  at("full").addEventListener("click", showFull);
  at("zoom-in").addEventListener("click", () => zoomTo(zoom * 1.25));
  at("zoom-out").addEventListener("click", () => zoomTo(zoom / 1.25));
  for (const side of sides) {
    side.choice.addEventListener("change", () => show(side, Number(side.choice.value)));
  }
  window.addEventListener("resize", shape);
  new ResizeObserver(() => {
    if (size === null) return;
    if (isFitted) fit();
    else draw();
  }).observe(stage);

  // ---------------------------------------------------------------- begin

  entries.forEach((entry, index) => {
    const button = document.createElement("button");
    button.type = "button";
    const small = thumbnailsOf(entry)[Number(entry.dataset.after || 0)] || thumbnailsOf(entry)[0];
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = button.title = entry.dataset.title;
    let face = document.createElement("span");
    if (small) {
      face = new Image();
      face.alt = "";
      face.src = small.src;
    } else {
      face.className = `blank ${entry.dataset.status}`;
      face.textContent = entry.dataset.status || "no picture";
    }
    button.append(face, name);
    button.addEventListener("click", () => select(index));
    strip.append(button);
  });
  strip.hidden = entries.length < 2;
  at("viewer").hidden = false;
  const asked = entries.findIndex((entry) => `#${entry.id}` === window.location.hash);
  const pictured = entries.findIndex((entry) => entry.dataset.width);
  select(asked >= 0 ? asked : Math.max(pictured, 0));
})();
