"use strict";
/* The page's only script. Texts become text nodes, never markup; nothing is asked for and nothing is stored. */
(() => {
  const ROW = 31; // pixels of a row of the table of trials, as in the style sheet
  const AROUND = 12; // rows that are there above and below what can be seen
  const GLYPHS = { reproduced: "●", "not-seen": "○", inconclusive: "?", skipped: "-" };
  const WORDS = { reproduced: "reproduced", "not-seen": "not seen", inconclusive: "inconclusive", skipped: "skipped" };
  const COLUMNS = [
    ["result", "result", ""], ["title", "scenario", ""], ["version", "version", ""], ["trial", "trial", "n"],
    ["verdict", "verdict", ""], ["seconds", "seconds", "n"], ["signature", "signature", ""], ["reason", "reason", ""],
  ];

  const byId = id => document.getElementById(id);
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const say = text => { byId("said").textContent = text; };

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === true) made.setAttribute(key, "");
      else if (value !== false && value !== undefined && value !== "") made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }

  /* --- what travels compressed --- */

  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(byId(id).content.textContent.trim()), letter => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  const chunks = new Map();
  function chunk(number) {
    if (!chunks.has(number)) chunks.set(number, unpacked(`chunk-${number}`));
    return chunks.get(number);
  }

  function rowsOf(index) {
    const fields = ["anchor", "result", "title", "scenario", "version", "trial", "verdict", "grade", "seconds",
      "reason", "signature", "expected", "seed", "chunk", "place", "offset"];
    const texts = new Set(["result", "title", "scenario", "version", "verdict", "grade", "reason", "signature",
      "expected"]);
    return index.rows.map((values, number) => {
      const row = { number };
      fields.forEach((field, at) => { row[field] = texts.has(field) ? index.words[values[at]] : values[at]; });
      row.text = [row.title, row.scenario, row.version, row.verdict, row.reason, row.signature, row.expected,
        row.anchor].join("\n").toLowerCase();
      return row;
    });
  }

  /* --- blocks, drawn as drawing.py draws them --- */

  let style = "";

  function words(text) {
    return text.map(piece => {
      if (typeof piece === "string") return document.createTextNode(piece);
      const outside = piece.h && !piece.h.startsWith("#");
      return piece.h
        ? element("a", { href: piece.h, class: piece.c, rel: outside ? "noreferrer noopener" : "" }, piece.t)
        : element("span", { class: piece.c }, piece.t);
    });
  }

  const DRAW = {
    heading: one => element("h4", {}, one.text),
    paragraph: one => element("p", { class: one.css }, ...words(one.text)),
    verbatim(one) {
      const text = element("pre", { tabindex: "0" }, one.text);
      return one.folded
        ? element("details", {}, element("summary", { class: "small" }, one.folded), text) : text;
    },
    bullets: one => element("ul", { class: "tight" }, ...one.items.map(item => element("li", {}, ...words(item)))),
    sheet(one) {
      const numeric = one.heads.map(head => head.startsWith("#") ? "n" : "");
      const heads = one.heads.map((head, at) =>
        element("th", { scope: "col", class: numeric[at] }, head.replace(/^#/, "")));
      const rows = one.rows.map(row =>
        element("tr", {}, ...row.map((cell, at) => element("td", { class: numeric[at] }, ...words(cell)))));
      const none = element("tr", {}, element("td", { colspan: one.heads.length }, "none"));
      return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": one.caption.slice(0, 80) },
        element("table", { class: "sheet" }, element("caption", {}, one.caption),
          element("thead", {}, element("tr", {}, ...heads)),
          element("tbody", {}, ...(rows.length ? rows : [none]))));
    },
    chain(one) {
      const list = element("ol", { class: "chain", "aria-label": "Who waits for whom, the root last" });
      let before;
      for (const link of one.links) {
        if (link.waiter !== before) list.append(element("li", {}, element("span", { class: "link" }, link.waiter)));
        before = link.holder;
        if (!link.holder) continue;
        const badge = element("span", { class: `badge ${link.grade}` }, link.grade);
        list.append(element("li", {}, element("span", { class: "arrow" }, `${link.verb} → `, badge),
          element("span", { class: "link" }, link.holder)));
      }
      return list;
    },
    picture(one) {
      const own = one.svg.replace(">", `><style>${style}</style>`);
      const image = element("img", { class: "picture", alt: one.title,
        src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(own)}` });
      const most = /max-width:(\d+)px/.exec(one.svg);
      if (most) image.style.maxWidth = `${most[1]}px`;
      const caption = one.caption ? [element("figcaption", {}, one.caption)] : [];
      return element("figure", { tabindex: "0" }, image, ...caption);
    },
    logbook(one) {
      const box = (css, text) => element("label", {}, element("input", { type: "checkbox", class: css, checked: true }),
        ` ${text}`);
      const filters = element("fieldset", {}, element("legend", {}, one.caption),
        ...one.voices.map((voice, at) => box(`v${at}`, voice)), ...one.levels.map(level => box(`l-${level}`, level)));
      const lines = one.lines.map(line => element("li", { class: `v${line.w} l-${line.l}` },
        element("i", {}, line.a), element("b", {}, one.voices[line.w]), " ", element("span", {}, line.t)));
      return element("div", { class: "logbook" }, filters,
        element("ol", { tabindex: "0", "aria-label": one.caption }, ...lines));
    },
    part(one) {
      const note = one.note ? [" ", element("span", { class: "soft small" }, one.note)] : [];
      return element("details", { class: "part", id: one.id, open: Boolean(one.opened) },
        element("summary", {}, element("h4", {}, one.title), ...note), ...one.blocks.map(drawn));
    },
  };

  const drawn = one => DRAW[one.kind](one);

  function drawnTrial(one) {
    const glyph = element("span", { class: one.result },
      element("span", { class: "glyph", "aria-hidden": "true" }, one.glyph));
    const summary = element("summary", {}, glyph, element("h3", {}, one.title), " ",
      element("span", { class: "small soft" }, one.note));
    return element("details", { class: `trial ${one.result}`, id: one.anchor, open: true }, summary,
      ...one.blocks.map(drawn));
  }

  /* --- what is asked for, in the address --- */

  let rows = [];
  let shown = [];
  let at = 0;
  let query = "";
  let order = "";
  let target = "";

  /* What is no encoding stays as it stands: the page is there, whatever leads to it. */
  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text;
    }
  }

  function readAddress() {
    const [anchor, state = ""] = location.hash.slice(1).split("?");
    const found = new URLSearchParams(state);
    target = decoded(anchor);
    query = found.get("q") || "";
    order = found.get("o") || "";
  }

  function address(anchor) {
    const state = new URLSearchParams();
    if (query) state.set("q", query);
    if (order) state.set("o", order);
    return `#${encodeURIComponent(anchor)}${state.size ? `?${state}` : ""}`;
  }

  const remember = () => history.replaceState(null, "", address(target));

  /* --- the search --- */

  function tokens(text) {
    const found = [];
    for (const [, not, key, phrase, word] of text.matchAll(/(!?)(?:([a-z]+):)?(?:"([^"]*)"?|(\S+))/gi)) {
      found.push({ not: Boolean(not), key: (key || "").toLowerCase(), value: (phrase ?? word).toLowerCase() });
    }
    return found;
  }

  function within(number, range) {
    const [low, high] = range.split("..");
    if (high !== undefined) return (low === "" || number >= Number(low)) && (high === "" || number <= Number(high));
    if (range.startsWith(">")) return number > Number(range.slice(1));
    if (range.startsWith("<")) return number < Number(range.slice(1));
    return number === Number(range);
  }

  const KEYS = {
    s: (row, value) => row.result.startsWith(value.replace(" ", "-")),
    v: (row, value) => row.version.toLowerCase().startsWith(value),
    scn: (row, value) => `${row.title}\n${row.scenario}`.toLowerCase().includes(value),
    sig: (row, value) => row.signature.toLowerCase().includes(value),
    verdict: (row, value) => row.verdict.toLowerCase().includes(value),
    grade: (row, value) => row.grade.startsWith(value),
    trial: (row, value) => within(row.trial, value),
    seed: (row, value) => within(row.seed, value),
    off: (row, value) => row.offset !== null && within(row.offset, value), // of trials that swept one
    sec: (row, value) => row.seconds >= 0 && within(row.seconds, value), // below: nobody lived to judge
  };

  function fits(row, wanted) {
    return wanted.every(({ not, key, value }) => {
      const fit = KEYS[key] ? KEYS[key](row, value) : row.text.includes(key ? `${key}:${value}` : value);
      return fit !== not;
    });
  }

  const RANGE = /^(?:[<>]?\d+(?:\.\d+)?|(?:\d+(?:\.\d+)?)?\.\.(?:\d+(?:\.\d+)?)?)$/;
  const NUMBERS = ["trial", "seed", "sec", "off"];

  /* What of a search means nothing, so that nothing found is no answer to it; a node id has colons of its own. */
  function misunderstood(wanted) {
    const keys = wanted.filter(({ key, value }) => key && !KEYS[key] && !value.startsWith(":"));
    const numbers = wanted.filter(({ key, value }) => NUMBERS.includes(key) && !RANGE.test(value));
    return [...keys.map(({ key }) => `no key ${key}: (searched as a word)`),
      ...numbers.map(({ key, value }) => `${key}:${value} is no number and no range`)].join("; ");
  }

  function look() {
    const wanted = tokens(query);
    shown = rows.filter(row => fits(row, wanted));
    const [column, down] = [order.replace(/^-/, ""), order.startsWith("-")];
    if (COLUMNS.some(([field]) => field === column)) {
      const by = (a, b) => typeof a[column] === "number" ? a[column] - b[column]
        : a[column].localeCompare(b[column], "en", { numeric: true });
      shown.sort((a, b) => (down ? by(b, a) : by(a, b)) || a.number - b.number);
    }
    at = Math.max(0, shown.findIndex(row => row.anchor === target));
    const count = `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} trial${rows.length === 1 ? "" : "s"}`;
    byId("found").textContent = [count, misunderstood(wanted)].filter(Boolean).join("; ");
    heads();
    paint();
  }

  /* --- the table: only the rows that can be seen are there --- */

  const grid = byId("grid");

  function heads() {
    byId("grid").querySelector("thead tr").replaceChildren(...COLUMNS.map(([field, title, css]) => {
      const sorted = order === field ? "ascending" : order === `-${field}` ? "descending" : "none";
      const button = element("button", { type: "button", "data-by": field }, title,
        element("span", { "aria-hidden": "true" }, { ascending: " ▲", descending: " ▼", none: "" }[sorted]));
      return element("th", { scope: "col", class: css, "aria-sort": sorted }, button);
    }));
  }

  function cell(row, field, css) {
    if (field === "result") {
      return element("td", { class: row.result },
        element("span", { class: "glyph", "aria-hidden": "true" }, GLYPHS[row.result]), WORDS[row.result]);
    }
    const value = field === "seconds" ? (row.seconds < 0 ? "–" : row.seconds.toFixed(1)) : String(row[field]);
    if (field === "title" && row.chunk !== -2) {
      return element("td", { title: value }, element("a", { href: address(row.anchor), tabindex: "-1" }, value));
    }
    return element("td", { class: css, title: css ? "" : value }, value);
  }

  function paint() {
    const first = Math.max(0, Math.floor(grid.scrollTop / ROW) - AROUND);
    const last = Math.min(shown.length, Math.ceil((grid.scrollTop + grid.clientHeight) / ROW) + AROUND);
    const gap = () => element("tr", { class: "gap", "aria-hidden": "true" },
      element("td", { colspan: COLUMNS.length }));
    const lines = shown.slice(first, last).map((row, number) => element("tr",
      { "aria-rowindex": first + number + 2, "data-at": String(first + number),
        "aria-current": first + number === at ? "true" : "" },
      ...COLUMNS.map(([field, , css]) => cell(row, field, css))));
    const [above, below] = [gap(), gap()];
    above.firstChild.style.height = `${first * ROW}px`;
    below.firstChild.style.height = `${(shown.length - last) * ROW}px`;
    const body = grid.querySelector("tbody");
    body.replaceChildren(above, ...lines, below);
    grid.querySelector("table").setAttribute("aria-rowcount", shown.length + 1);
  }

  function select(number) {
    if (!shown.length) return;
    at = Math.min(Math.max(number, 0), shown.length - 1);
    const head = grid.querySelector("thead").offsetHeight;
    if (at * ROW < grid.scrollTop) grid.scrollTop = at * ROW;
    if ((at + 1) * ROW + head > grid.scrollTop + grid.clientHeight) {
      grid.scrollTop = (at + 1) * ROW + head - grid.clientHeight;
    }
    paint();
    const row = shown[at];
    say(`${WORDS[row.result]}, ${row.title}, ${row.version}, trial ${row.trial}`);
  }

  /* --- one trial --- */

  const own = part => part && (byId(part) || null);

  /* A part of a trial is named after it; a trial may be named like another with something behind it. */
  const rowOf = anchor => rows.filter(row => row.anchor && `${anchor}-`.startsWith(`${row.anchor}-`))
    .sort((a, b) => b.anchor.length - a.anchor.length)[0];

  async function show(anchor) {
    const row = rowOf(anchor);
    if (row && row.chunk >= 0 && !own(row.anchor)) {
      const trials = await chunk(row.chunk);
      byId("opened").replaceChildren(drawnTrial(trials[row.place]));
    }
    const found = own(anchor) || (row && own(row.anchor));
    if (!found) {
      return say(row ? "The evidence of this trial is in its bundle on disk, not in this file."
        : `Nothing in this file is called ${anchor.slice(0, 120)}: no such trial, or no such part of it.`);
    }
    for (let part = found; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    found.scrollIntoView({ block: "start" });
    const summary = found.tagName === "DETAILS" ? found.querySelector("summary") : null;
    if (summary) summary.focus({ preventScroll: true });
    all(".shown").forEach(one => one.classList.remove("shown"));
    found.classList.add("shown");
    return undefined;
  }

  function go(anchor) {
    target = anchor;
    if (location.hash === address(anchor)) show(anchor);
    else location.hash = address(anchor);
  }

  const current = () => rowOf(target)?.anchor || byId("evidence").querySelector("details.trial[open]")?.id || "";

  function neighbour(step) {
    if (document.documentElement.dataset.ready !== "yes") return say("The trials are still being read.");
    const bad = rows.filter(row => row.result === "reproduced" && row.chunk !== -2);
    if (!bad.length) return say("No trial reproduced the failure.");
    const here = bad.findIndex(row => row.anchor === current());
    const next = here < 0 ? (step > 0 ? 0 : bad.length - 1) : (here + step + bad.length) % bad.length;
    return go(bad[next].anchor);
  }

  function part(name, missing) {
    const anchor = current();
    if (own(`${anchor}-${name}`)) return go(`${anchor}-${name}`);
    return say(missing);
  }

  /* --- what can be taken away --- */

  function caseOf(anchor) {
    const row = rowOf(anchor);
    const found = row && all("#cases details").find(one => one.dataset.scenario === row.scenario);
    return found || byId("case-0");
  }

  /* Without the clipboard's leave, the old way; without that too, the text lies selected before the reader. */
  async function onClipboard(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const box = element("textarea", { "aria-label": "to be copied" });
      box.value = text;
      document.body.append(box);
      box.select();
      const copied = document.execCommand("copy");
      box.remove();
      return copied;
    }
  }

  async function copy(what, name, button) {
    const one = button?.dataset.case ? byId(`case-${button.dataset.case}`) : caseOf(target);
    if (!one) return say("No trial reproduced the failure: there is nothing to copy.");
    const title = one.querySelector("h3").textContent;
    const source = byId(`${one.id}-${what}`);
    if (!source) return say(byId(`${one.id}-why`).textContent);
    const text = source.textContent;
    const focused = document.activeElement;
    if (await onClipboard(text)) {
      focused?.focus({ preventScroll: true });
      return say(`Copied the ${name}, ${text.length.toLocaleString("en")} characters: ${title}`);
    }
    one.open = true;
    source.scrollIntoView({ block: "nearest" });
    getSelection().selectAllChildren(source);
    return say(`The browser does not let a page copy; the ${name} is selected: press Ctrl+C.`);
  }

  /* --- keys, and the buttons that do the same --- */

  const ACTIONS = {
    search() { byId("query").focus(); byId("query").select(); },
    down() { grid.focus({ preventScroll: true }); select(at + 1); },
    up() { grid.focus({ preventScroll: true }); select(at - 1); },
    open() { if (shown[at]?.anchor) go(shown[at].anchor); },
    next: () => neighbour(1),
    previous: () => neighbour(-1),
    threads: () => part("threads", "This trial has no full snapshot, so no threads."),
    graph: () => part("graph", "In this trial no wait-for graph was found."),
    issue: button => copy("issue", "issue text", button),
    script: button => copy("script", "repro script", button),
    help() { const box = byId("help"); if (box.open) box.close(); else box.showModal(); },
    keys() {
      keys = !keys;
      all("[data-do=keys]").forEach(one => one.setAttribute("aria-pressed", String(!keys)));
      say(keys ? "Keys are on." : "Keys are off.");
    },
  };
  let keys = true;
  const BY_KEY = { "/": "search", j: "down", k: "up", "]": "next", "[": "previous", t: "threads", g: "graph",
    m: "issue", r: "script", "?": "help" };

  document.addEventListener("keydown", event => {
    if (!keys || event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input, textarea, select");
    if (event.target === byId("query") && event.key === "Enter") return ACTIONS.open();
    if (event.target === grid && event.key === "Enter") return ACTIONS.open();
    if (typing && event.target.type !== "checkbox") return undefined;
    if (!BY_KEY[event.key]) return undefined;
    event.preventDefault();
    return ACTIONS[BY_KEY[event.key]]();
  });

  document.addEventListener("click", event => {
    const button = event.target.closest("[data-do]");
    if (button) return ACTIONS[button.dataset.do](button);
    const head = event.target.closest("[data-by]");
    if (head) {
      order = order === head.dataset.by ? `-${head.dataset.by}` : head.dataset.by;
      remember();
      look();
      return grid.querySelector(`[data-by=${head.dataset.by}]`).focus();
    }
    const link = event.target.closest("a[href^='#']");
    if (link && link.getAttribute("href") === location.hash) show(target);
    const line = event.target.closest("[data-at]");
    if (line && getSelection().isCollapsed) { // who marks a text to copy it stays there
      at = Number(line.dataset.at);
      paint();
      if (!link) ACTIONS.open();
    }
    return undefined;
  });

  byId("query").addEventListener("input", event => {
    query = event.target.value;
    remember();
    grid.scrollTop = 0;
    look();
  });
  grid.addEventListener("scroll", () => requestAnimationFrame(paint), { passive: true });
  window.addEventListener("hashchange", () => { readAddress(); byId("query").value = query; look(); arrive(); });

  const arrive = () => { if (target) show(target); };

  async function begin() {
    const index = await unpacked("index");
    style = index.style;
    rows = rowsOf(index);
    all("[data-scripted]").forEach(one => { one.hidden = false; });
    byId("tools").hidden = false;
    byId("rows").hidden = true;
    readAddress();
    byId("query").value = query;
    look();
    arrive();
    document.documentElement.dataset.ready = "yes";
  }

  begin();
})();
