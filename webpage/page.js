"use strict";
// The page's own script: unpacks what the maps and frames hold, paints it for a threshold, and shows the scores.
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const byId = (id) => document.getElementById(id);
  const KNOWN_LABEL = 1, LABEL = 2, KNOWN_MAP = 4, MAP = 8, UNKNOWN = 65535;
  const rgba = (hex, alpha = 255) => {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    return ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
  };
  const HIT = rgba("#56b4e9"), MISS = rgba("#f0e442"), FALSE = rgba("#d55e00"), ROOF = rgba("#56b4e9");
  const LABELLED = rgba("#e69f00");
  const ramp = data.ramp.map((hex, i) => rgba(hex, Math.min(255, 40 + i)));

  let at = data.start; // where among data.thresholds the slider stands
  let place = null; // the area that the maps show, unpacked
  const frames = [];

  // ---------------------------------------------------------------------------------------------------- unpacking

  async function unpack(text) {
    const packed = atob(text);
    const bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function unpackPicture(picture) {
    const [low, high, flags] = await Promise.all([picture.low, picture.high, picture.flags].map(unpack));
    const level = new Uint16Array(low.length);
    for (let i = 0; i < low.length; i++) level[i] = low[i] | (high[i] << 8);
    return { ...picture, level, flags };
  }

  // ----------------------------------------------------------------------------------------------------- painting

  // Whether a cell is roof: by its probability, or where that is not known, in the masks that were made.
  const isKnown = (level, flags) => level !== UNKNOWN || (flags & KNOWN_MAP) !== 0;
  const isRoof = (level, flags) => (level !== UNKNOWN ? level > at : (flags & MAP) !== 0);
  const painters = {
    labels: (level, flags) => (flags & LABEL ? LABELLED : 0),
    probability: (level) => (level === UNKNOWN || level === 0 ? 0 : ramp[Math.floor((level / data.thresholds.length) * 255)]),
    mask: (level, flags) => (isKnown(level, flags) && isRoof(level, flags) ? ROOF : 0),
    errors: (level, flags) => {
      if (!(flags & KNOWN_LABEL) || !isKnown(level, flags)) return 0;
      const roof = isRoof(level, flags);
      if (flags & LABEL) return roof ? HIT : MISS;
      return roof ? FALSE : 0;
    },
  };

  function paint(kind, picture) {
    const { level, flags } = picture;
    const painter = painters[kind], colours = new Uint32Array(level.length);
    for (let i = 0; i < level.length; i++) colours[i] = painter(level[i], flags[i]);
    return colours;
  }

  // --------------------------------------------------------------------------------------------------------- maps

  const SIDES = ["left", "right"];
  const LAYERS = { imagery: SIDES, split: SIDES, labels: ["left"], probability: ["right"], mask: ["right"], errors: ["right"] };
  const THRESHOLDED = ["mask", "errors"];
  let plots = {};
  const renderers = (layer) => LAYERS[layer].flatMap((side) => {
    const names = layer === "imagery" || layer === "split" ? [`${layer}-${side}`] : [layer];
    return plots[side].renderers.filter((one) => names.includes(one.name));
  });
  const corner = (picture) => ({ x: [0], y: [0], w: [picture.cols * picture.cell[1]], h: [picture.rows * picture.cell[0]] });

  function showLayer(layer) {
    const shown = byId(`show-${layer}`).checked;
    const opacity = Number(byId(`opacity-${layer}`).value) / 100;
    for (const one of renderers(layer)) {
      const key = layer === "split" ? "line_alpha" : "global_alpha";
      one.glyph[key] = { value: opacity };
      one.visible = shown;
    }
    if (shown && place && painters[layer]) fill(layer);
  }

  function fill(layer) {
    const { ndarray } = Bokeh.require("core/util/ndarray");
    const image = ndarray(paint(layer, place).buffer, { dtype: "uint32", shape: [place.rows, place.cols] });
    for (const one of renderers(layer)) one.data_source.data = { image: [image], url: [""], ...corner(place) };
  }

  let wanted = 0;
  async function showPlace(number) {
    wanted = number;
    const unpacked = await unpackPicture(data.places[number]);
    if (wanted !== number) return; // another one was chosen meanwhile
    place = unpacked;
    for (const one of renderers("imagery")) one.data_source.data = { url: [place.image], image: [null], ...corner(place) };
    for (const side of SIDES) {
      for (const name of ["training", "validation"]) {
        const rings = place.split[name] || [];
        const source = plots[side].renderers.find((one) => one.data_source.name === `split-${name}-${side}`).data_source;
        source.data = {
          xs: rings.map((ring) => ring.map(([, col]) => col * place.pixel[1])),
          ys: rings.map((ring) => ring.map(([row]) => -row * place.pixel[0])),
        };
      }
      const bar = plots[side].center.find((one) => one.name === `scale-${side}`);
      if (bar) bar.visible = place.metres;
    }
    Object.keys(LAYERS).forEach(showLayer);
    showAll();
    byId("map-words").textContent = place.words;
  }

  const ranges = () => [plots.left.x_range, plots.left.y_range];
  const aspect = () => plots.left.aspect_ratio;

  function showAll() {
    const width = place.width * place.pixel[1], height = place.height * place.pixel[0];
    const half = Math.max(width, height * aspect()) / 2;
    look(width / 2, -height / 2, half);
  }

  function look(x, y, half) {
    const [across, down] = ranges();
    across.setv({ start: x - half, end: x + half });
    down.setv({ start: y - half / aspect(), end: y + half / aspect() });
  }

  function move(right, up, zoom) {
    const [across, down] = ranges();
    const half = (across.end - across.start) / 2;
    const x = (across.start + across.end) / 2 + right * half, y = (down.start + down.end) / 2 + (up * half) / aspect();
    look(x, y, half / zoom);
  }

  const KEYS = {
    ArrowLeft: () => move(-0.25, 0, 1), ArrowRight: () => move(0.25, 0, 1),
    ArrowUp: () => move(0, 0.25, 1), ArrowDown: () => move(0, -0.25, 1),
    "+": () => move(0, 0, 1.5), "=": () => move(0, 0, 1.5), "-": () => move(0, 0, 1 / 1.5), 0: showAll,
  };

  async function startMaps() {
    for (const side of SIDES) {
      plots[side] = Bokeh.documents[0].get_model_by_name(`map-${side}`);
      byId(`map-${side}`).addEventListener("keydown", (event) => {
        if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        KEYS[event.key]();
      });
    }
    byId("zoom-in").addEventListener("click", () => move(0, 0, 1.5));
    byId("zoom-out").addEventListener("click", () => move(0, 0, 1 / 1.5));
    byId("zoom-all").addEventListener("click", showAll);
    const select = byId("place");
    if (select) select.addEventListener("change", () => showPlace(Number(select.value)));
    for (const layer of Object.keys(LAYERS)) {
      for (const part of ["show", "opacity"]) byId(`${part}-${layer}`).addEventListener("input", () => showLayer(layer));
    }
    await showPlace(0);
  }

  // ------------------------------------------------------------------------------------------- threshold and scores

  function scores(curve) {
    const tp = curve.tp[at], fp = curve.fp[at], fn = curve.fn[at];
    const ratio = (part, whole) => (whole > 0 ? part / whole : null);
    return {
      iou: ratio(tp, tp + fp + fn), f1: ratio(2 * tp, 2 * tp + fp + fn), precision: ratio(tp, tp + fp), recall: ratio(tp, tp + fn),
    };
  }
  const shown = (value) => (value === null ? "–" : value.toFixed(3));

  function showScores() {
    const found = scores(data.curve);
    for (const cell of document.querySelectorAll("[data-score]")) {
      const value = found[cell.dataset.score];
      cell.textContent = shown(value);
      cell.dataset.value = value === null ? "" : String(value);
    }
    for (const cell of document.querySelectorAll("[data-count]")) {
      cell.textContent = `${data.curve[cell.dataset.count][at].toLocaleString("en")} px`;
    }
    for (const cell of document.querySelectorAll("[data-frame]")) {
      const curve = data.frames[Number(cell.dataset.frame)].curve;
      if (curve) cell.textContent = shown(scores(curve).iou);
    }
    const dot = Bokeh.documents.length && Bokeh.documents[0].get_model_by_name("pr-here");
    if (dot) {
      const known = found.precision !== null && found.recall !== null;
      dot.data = known ? { recall: [found.recall], precision: [found.precision] } : { recall: [], precision: [] };
    }
  }

  function showThreshold() {
    const value = String(Number(data.thresholds[at].toPrecision(4)));
    byId("threshold-value").textContent = value;
    byId("threshold").setAttribute("aria-valuetext", value);
    showScores();
    if (place) THRESHOLDED.filter((layer) => byId(`show-${layer}`).checked).forEach(fill);
    frames.forEach(showFrame);
  }

  let waiting = false;
  function setThreshold(index) {
    at = index;
    byId("threshold").value = String(index);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; showThreshold(); });
  }

  function startThreshold() {
    byId("threshold").addEventListener("input", (event) => setThreshold(Number(event.target.value)));
    for (const id of ["own", "best"]) {
      const button = byId(id);
      if (button) button.addEventListener("click", () => setThreshold(Number(button.dataset.index)));
    }
    setThreshold(data.start);
  }

  // ------------------------------------------------------------------------------------------------------- frames

  function showFrame(frame, number) {
    const colours = paint("errors", frame);
    const pixels = new ImageData(new Uint8ClampedArray(colours.buffer), frame.cols, frame.rows);
    byId(`frame-${number}`).getContext("2d").putImageData(pixels, 0, 0);
  }

  async function startFrames() {
    for (const [number, picture] of data.frames.entries()) {
      frames[number] = await unpackPicture(picture);
      showFrame(frames[number], number);
    }
  }

  // -------------------------------------------------------------------------------------------------------- start

  async function start() {
    const roots = data.plots.roots;
    if (Object.keys(roots).length) {
      Bokeh.set_log_level("error");
      await Bokeh.embed.embed_items({ page: data.plots.doc }, [{ docid: "page", roots, root_ids: Object.keys(roots) }]);
    }
    if (data.places.length) await startMaps();
    await startFrames();
    if (data.curve) startThreshold();
    document.documentElement.dataset.ready = "yes";
  }

  start().catch((error) => {
    byId("failure").textContent = `This browser cannot show the maps and plots (${error.message}). A current one can.`;
    byId("failure").hidden = false;
    console.error(error);
  });
})();
