// The interactive viewer: linked planes of fixed and moved (or before), on plain canvases.
// The address after # holds its state (mode=swipe&x=80&y=90&z=70&amount=0.3&other=before), so that
// a view can be linked to. For scripts, the viewer's data-state says "ready" or "failed", and
// data-brightness the mean gray value last drawn.
"use strict";
for (const slider of document.querySelectorAll("[data-blend]")) {
  const blend = () => slider.closest("section").style.setProperty("--blend", slider.value);
  slider.addEventListener("input", blend);
  blend(); // a reloaded page keeps where its sliders were
}
(() => {
  const root = document.getElementById("viewer");
  if (!root) return;
  const settings = JSON.parse(document.getElementById("viewer-settings").textContent);
  const { size, spacing, planes } = settings;
  const dimension = size.length;
  const AXES = "xyz";
  const MODES = ["blend", "swipe", "flicker", "checkerboard", "difference"];
  const TILE_MM = 0.1 * Math.max(...size.map((n, axis) => n * spacing[axis]));
  const state = {
    mode: "swipe", other: "moved", amount: 0.35, flipped: false,
    at: size.map((n) => Math.floor(n / 2)),
  };
  const find = (selector) => root.querySelector(selector);
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  async function unpack() {
    if (typeof DecompressionStream === "undefined") {
      throw new Error("this browser cannot unpack its data (it lacks DecompressionStream)");
    }
    const text = atob(document.getElementById("viewer-data").textContent.trim());
    const packed = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const data = new Uint8Array(await new Response(stream).arrayBuffer());
    for (let i = 1; i < data.length; i++) data[i] += data[i - 1]; // differences, modulo 256
    const gain = 255 / (settings.grays - 1);
    for (let i = 0; i < data.length; i++) data[i] *= gain;
    const voxels = size.reduce((a, b) => a * b);
    const names = settings.names.map((name, i) => [name, data.subarray(i * voxels, (i + 1) * voxels)]);
    return Object.fromEntries(names);
  }

  // What is seen at a pixel, 0 to 255. u: share of the width; mm: position in the plane.
  const MIXERS = {
    blend: (f, o) => f + (o - f) * state.amount,
    swipe: (f, o, u) => (u < state.amount ? f : o),
    flicker: (f, o) => (state.flipped ? o : f),
    checkerboard: (f, o, u, x, y) => ((Math.floor(x / TILE_MM) + Math.floor(y / TILE_MM)) % 2 ? o : f),
    difference: (f, o) => 127.5 + (o - f) / 2,
  };

  function makePlane(plane, volumes) {
    const canvas = document.getElementById(`viewer-${plane.name}`);
    const columns = size[plane.across];
    const rows = size[plane.down];
    const slice = new OffscreenCanvas(columns, rows);
    const pixels = slice.getContext("2d").createImageData(columns, rows);
    const stride = [1, size[0], size[0] * size[1]];
    const flip = (row) => (plane.turned ? rows - 1 - row : row);

    function paint() {
      const mix = MIXERS[state.mode];
      const fixed = volumes.fixed;
      const other = volumes[state.other];
      const start = plane.normal === null ? 0 : state.at[plane.normal] * stride[plane.normal];
      let sum = 0;
      for (let row = 0, pixel = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++, pixel += 4) {
          const i = start + flip(row) * stride[plane.down] + column * stride[plane.across];
          const x = column * spacing[plane.across];
          const value = mix(fixed[i], other[i], (column + 0.5) / columns, x, row * spacing[plane.down]);
          pixels.data[pixel] = pixels.data[pixel + 1] = pixels.data[pixel + 2] = value;
          pixels.data[pixel + 3] = 255;
          sum += value;
        }
      }
      slice.getContext("2d").putImageData(pixels, 0, 0);
      return sum / (rows * columns);
    }

    function draw() {
      const ratio = window.devicePixelRatio || 1;
      const width = Math.round(canvas.clientWidth * ratio);
      const height = Math.round(canvas.clientHeight * ratio);
      if (canvas.width !== width || canvas.height !== height) {
        canvas.width = width;
        canvas.height = height;
      }
      const brightness = paint();
      const context = canvas.getContext("2d");
      context.imageSmoothingQuality = "high";
      context.drawImage(slice, 0, 0, width, height);
      context.lineWidth = ratio;
      if (dimension === 3) {
        const x = ((state.at[plane.across] + 0.5) / columns) * width;
        const y = ((flip(state.at[plane.down]) + 0.5) / rows) * height;
        const gap = 10 * ratio;
        context.strokeStyle = "rgba(255, 213, 79, 0.65)";
        line(context, x, 0, x, y - gap);
        line(context, x, y + gap, x, height);
        line(context, 0, y, x - gap, y);
        line(context, x + gap, y, width, y);
      }
      if (state.mode === "swipe") {
        const x = state.amount * width;
        context.strokeStyle = context.fillStyle = "rgba(255, 255, 255, 0.9)";
        line(context, x, 0, x, height);
        context.beginPath(); // the handle
        context.arc(x, height * 0.9, 6 * ratio, 0, 2 * Math.PI);
        context.fill();
      }
      return brightness;
    }

    function place(event) {
      const box = canvas.getBoundingClientRect();
      const across = clamp((event.clientX - box.left) / box.width, 0, 1);
      const down = clamp((event.clientY - box.top) / box.height, 0, 1);
      return { across, down, nearDivider: Math.abs(across - state.amount) * box.width < 14 };
    }

    let dragging = null;
    canvas.addEventListener("pointerdown", (event) => {
      const where = place(event);
      dragging = state.mode === "swipe" && (where.nearDivider || dimension === 2) ? "divider" : "cross";
      canvas.setPointerCapture(event.pointerId);
      drag(where);
    });
    canvas.addEventListener("pointermove", (event) => {
      const where = place(event);
      canvas.style.cursor = state.mode === "swipe" && where.nearDivider ? "ew-resize" : "crosshair";
      if (dragging) drag(where);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => { dragging = null; });
    }
    function drag(where) {
      if (dragging === "divider") {
        state.amount = where.across;
      } else {
        const row = clamp(Math.floor(where.down * rows), 0, rows - 1);
        state.at[plane.across] = clamp(Math.floor(where.across * columns), 0, columns - 1);
        state.at[plane.down] = flip(row);
      }
      changed();
    }

    // The wheel belongs to the page until a plane has been clicked; at either end it goes back.
    let scrolled = 0; // a touchpad sends many small turns of the wheel
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas || plane.normal === null) return;
      scrolled += event.deltaMode === 0 ? event.deltaY : 40 * event.deltaY;
      const by = Math.sign(scrolled);
      const at = state.at[plane.normal] + by;
      if (at < 0 || at >= size[plane.normal]) return;
      event.preventDefault();
      if (Math.abs(scrolled) < 30) return;
      scrolled = 0;
      step(plane, by);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10 };
      if (!(event.key in steps) || plane.normal === null) return;
      event.preventDefault();
      step(plane, steps[event.key]);
    });
    return draw;
  }

  function line(context, x0, y0, x1, y1) {
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    context.stroke();
  }

  function step(plane, by) {
    state.at[plane.normal] = clamp(state.at[plane.normal] + by, 0, size[plane.normal] - 1);
    changed();
  }

  // Slices are counted in the voxels of the report's figures, which the viewer may have thinned.
  const toShown = (at, axis) => Math.floor(((at + 0.5) * settings.shown[axis]) / size[axis]);
  const fromShown = (at, axis) => Math.floor(((at + 0.5) * size[axis]) / settings.shown[axis]);

  function positionInWords() {
    const voxel = state.at.map(toShown).map((at, axis) => `${AXES[axis]} ${at}`).join(", ");
    if (dimension === 2) return voxel;
    const mm = settings.corner.map((corner, i) => corner + settings.direction[i]
      .reduce((sum, cosine, axis) => sum + cosine * (state.at[axis] + 0.5) * spacing[axis], 0));
    const sides = ["RL", "AP", "IS"];
    const words = mm.map((v, i) => `${sides[i][v < 0 ? 0 : 1]} ${Math.abs(v).toFixed(1)}`);
    return `${voxel}  ·  ${words.join("  ")} mm`;
  }

  let draws = [];
  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(drawAll);
  }

  function drawAll() {
    waiting = false;
    const brightness = draws.map((draw) => draw());
    root.dataset.brightness = (brightness.reduce((a, b) => a + b) / brightness.length).toFixed(2);
  }

  function showControls() {
    for (const input of root.querySelectorAll("input[name=mode]")) input.checked = input.value === state.mode;
    for (const input of root.querySelectorAll("input[name=other]")) input.checked = input.value === state.other;
    const amount = find("#viewer-amount");
    amount.value = String(state.amount);
    amount.disabled = state.mode !== "blend" && state.mode !== "swipe";
    for (const plane of planes) {
      if (plane.normal === null) continue;
      const at = state.at[plane.normal];
      document.getElementById(`viewer-${plane.name}-slice`).value = String(at);
      document.getElementById(`viewer-${plane.name}-number`).textContent = toShown(at, plane.normal);
    }
    find("#viewer-position").textContent = positionInWords();
    find("#viewer-shown").textContent = shownInWords();
  }

  function shownInWords() {
    const other = state.other;
    return {
      blend: `fixed ${Math.round(100 * (1 - state.amount))} %, ${other} ${Math.round(100 * state.amount)} %`,
      swipe: `fixed | ${other}`,
      flicker: state.flipped ? other : "fixed",
      checkerboard: `tiles of fixed and ${other}`,
      difference: `${other} − fixed; gray is equal`,
    }[state.mode];
  }

  let saving = 0;
  function changed() {
    showControls();
    redraw();
    clearTimeout(saving);
    saving = setTimeout(() => {
      const at = state.at.map((n, axis) => `${AXES[axis]}=${toShown(n, axis)}`).join("&");
      const address = `#mode=${state.mode}&${at}&amount=${state.amount.toFixed(2)}&other=${state.other}`;
      history.replaceState(null, "", address);
    }, 400);
  }

  function readAddress() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (MODES.includes(wanted.get("mode"))) state.mode = wanted.get("mode");
    if (["moved", "before"].includes(wanted.get("other"))) state.other = wanted.get("other");
    const amount = parseFloat(wanted.get("amount"));
    if (Number.isFinite(amount)) state.amount = clamp(amount, 0, 1);
    size.forEach((count, axis) => {
      const at = parseInt(wanted.get(AXES[axis]), 10);
      if (Number.isFinite(at)) state.at[axis] = clamp(fromShown(at, axis), 0, count - 1);
    });
    return [...wanted.keys()].some((key) => key === "mode" || AXES.includes(key));
  }

  function listen() {
    for (const input of root.querySelectorAll("input[name=mode], input[name=other]")) {
      input.addEventListener("change", () => { state[input.name] = input.value; changed(); });
    }
    find("#viewer-amount").addEventListener("input", (event) => {
      state.amount = parseFloat(event.target.value);
      changed();
    });
    for (const plane of planes) {
      if (plane.normal === null) continue;
      const slider = document.getElementById(`viewer-${plane.name}-slice`);
      slider.max = String(size[plane.normal] - 1);
      slider.addEventListener("input", () => {
        state.at[plane.normal] = parseInt(slider.value, 10);
        changed();
      });
    }
    window.addEventListener("hashchange", () => {
      if (!readAddress()) return;
      showControls();
      redraw();
      root.scrollIntoView({ block: "start" });
    });
    new ResizeObserver(redraw).observe(root);
    setInterval(() => {
      if (state.mode !== "flicker") return;
      state.flipped = !state.flipped;
      find("#viewer-shown").textContent = shownInWords();
      redraw();
    }, 700);
  }

  unpack().then((volumes) => {
    draws = planes.map((plane) => makePlane(plane, volumes));
    readAddress();
    listen();
    find(".viewer-body").hidden = false;
    find(".viewer-message").hidden = true;
    showControls();
    drawAll();
    root.dataset.state = "ready";
  }).catch((error) => {
    root.dataset.state = "failed";
    find(".viewer-message").textContent =
      `The interactive viewer could not start: ${error.message}. The pictures on this page show the same images.`;
  });
})();
