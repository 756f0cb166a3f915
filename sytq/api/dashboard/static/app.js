// What HTML and htmx alone cannot: polling that stops when nobody looks, times as distances, charts, copying.
"use strict";
(() => {
  const main = document.getElementById("content");
  const stale = document.getElementById("stale");

  // -- polling: the page's own content, with its ETag, while it is visible and nobody types in it
  const interval = Number(main.dataset.poll || 0) * 1000;
  let last = Date.now(), answered = Date.now(), etag = "", busy = false;
  const typing = () => document.activeElement && main.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
  let edited = false; // what was filled in must not be replaced
  main.addEventListener("input", () => { edited = true; });
  const poll = () => {
    if (!interval || busy || document.hidden || Date.now() - last < interval) return;
    if (edited || typing()) {
      if (edited || Date.now() - answered > 6 * interval) old("This page does not refresh itself while a form is filled in.");
      return;
    }
    last = Date.now();
    busy = true;
    htmx.trigger(main, "poll");
  };
  const isPoll = (event) => event.detail.ctx.sourceElement === main;
  document.addEventListener("htmx:config:request", (event) => {
    if (!isPoll(event)) return;
    event.detail.ctx.request.cache = "no-store";
    if (etag) event.detail.ctx.request.headers["If-None-Match"] = etag;
  });
  document.addEventListener("htmx:after:request", (event) => {
    if (!isPoll(event)) return;
    const response = event.detail.ctx.response;
    if (response.status === 401) { location.reload(); return; }
    if (response.status >= 400) { event.preventDefault(); old(); return; }
    answered = Date.now();
    stale.hidden = true;
    etag = response.headers.get("ETag") || "";
  });
  document.addEventListener("htmx:error", (event) => { if (isPoll(event)) old(); });
  document.addEventListener("htmx:finally:request", (event) => { if (isPoll(event)) busy = false; });
  const old = (why = "The server does not answer.") => {
    const since = new Date(answered).toLocaleTimeString();
    stale.textContent = `${why} What you see is of ${since}.`;
    stale.hidden = false;
  };
  document.addEventListener("visibilitychange", poll);
  setInterval(poll, 1000);

  // -- times
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const distance = (seconds) => {
    const size = Math.abs(seconds);
    if (size < 1) return "now";
    const [per, unit] = units.find(([per]) => size >= per);
    const text = `${Math.floor(size / per)} ${unit}`;
    return seconds < 0 ? `in ${text}` : `${text} ago`;
  };
  const tell = () => {
    for (const each of document.querySelectorAll("time[datetime]")) {
      const at = Date.parse(each.dateTime);
      if (Number.isNaN(at)) continue;
      if (!each.title) each.title = `${each.dateTime} (${new Date(at).toLocaleString()})`;
      const past = distance((Date.now() - at) / 1000);
      const text = each.closest("[data-exact]") ? `${new Date(at).toLocaleString()} (${past})` : past; // what is compared with logs
      if (each.textContent !== text) each.textContent = text;
    }
  };
  setInterval(tell, 1000);

  // -- charts
  const plain = (name) => { // light-dark() as one colour, which a canvas takes
    const probe = document.createElement("i");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const kinds = { in: "--calm", out: "--good", bad: "--bad", wait: "--warn" };
  const charts = new Map();
  const number = (value) => value == null ? "–" : value.toLocaleString(undefined, { maximumFractionDigits: 6 });
  const draw = (force) => {
    for (const [element, drawn] of charts) {
      if (!element.isConnected) { drawn.plot.destroy(); charts.delete(element); }
    }
    for (const element of document.querySelectorAll(".chart[data-chart]")) {
      const known = charts.get(element);
      const width = element.clientWidth - 18;
      if (known && !force && known.data === element.dataset.chart) {
        if (known.plot.width !== width) known.plot.setSize({ width, height: 160 });
        continue;
      }
      if (known) known.plot.destroy();
      const data = JSON.parse(element.dataset.chart);
      const ink = plain("--muted"), line = plain("--line");
      const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
      const series = data.series.map((one) => {
        const stroke = plain(kinds[one.kind] || "--calm");
        return { label: one.label, stroke, width: 2, points: { show: data.times.length < 2 }, value: (_, v) => v == null ? "–" : `${number(v)}${data.unit}` };
      });
      const options = { width, height: 160, legend: { live: true }, series: [{}, ...series], axes: [axis, { ...axis, size: 60, values: (_, at) => at.map(number) }], scales: { y: { range: (_, low, high) => [0, high || 1] } } };
      charts.set(element, { data: element.dataset.chart, plot: new uPlot(options, [data.times, ...data.series.map((one) => one.values)], element) });
    }
  };
  addEventListener("resize", () => draw(false));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(true));

  // -- theme: system, light, dark
  const button = document.getElementById("theme");
  const path = new URL(document.querySelector(".brand").href).pathname;
  const themes = ["", "light", "dark"];
  const label = () => { button.textContent = `Theme: ${document.documentElement.dataset.theme || "system"}`; };
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "") + 1) % 3];
    if (next) document.documentElement.dataset.theme = next; else delete document.documentElement.dataset.theme;
    document.cookie = `sytq_theme=${next}; path=${path}; max-age=${next ? 31536000 : 0}; samesite=lax`;
    label();
    draw(true);
  });
  label();

  // -- forms that ask first, and buttons that copy
  document.addEventListener("submit", (event) => {
    const question = (event.submitter && event.submitter.dataset.confirm) || event.target.dataset.confirm;
    if (question && !confirm(question)) event.preventDefault();
  });
  document.addEventListener("click", async (event) => {
    const copying = event.target.closest("[data-copy]");
    if (!copying) return;
    const shown = document.querySelector(copying.dataset.copy);
    if (!navigator.clipboard) { getSelection().selectAllChildren(shown); copying.textContent = "Selected: copy it with your keys"; return; } // without https
    await navigator.clipboard.writeText(shown.textContent);
    const before = copying.textContent;
    copying.textContent = "Copied";
    setTimeout(() => { copying.textContent = before; }, 1500);
  });

  // -- live: a task's progress as it happens; when its state changes, or there is no stream, the page is polled
  let source = null;
  const now = () => { last = 0; poll(); };
  const listen = () => {
    const path = document.getElementById("live")?.dataset.live;
    if (source && (!path || document.hidden)) { source.close(); source = null; }
    if (source || !path || document.hidden) return;
    source = new EventSource(path);
    source.addEventListener("ended", () => { source.close(); now(); });
    source.addEventListener("task", (event) => {
      const live = document.getElementById("live"), bar = live.querySelector("progress");
      const { state, attempts, progress } = JSON.parse(event.data);
      if (`${state} ${attempts}` !== live.dataset.state || (progress && !bar)) { now(); return; }
      if (!progress) return;
      if (progress.of > 0) { bar.max = progress.of; bar.value = progress.done; }
      const count = progress.of > 0 ? `${progress.done.toLocaleString()} of ${progress.of.toLocaleString()} ` : "";
      live.querySelector(".reported").textContent = count + (progress.text || "");
    });
  };
  document.addEventListener("visibilitychange", listen);

  document.querySelector(".bar [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }); // on a phone the pages scroll sideways

  const refresh = () => { tell(); draw(false); listen(); };
  document.addEventListener("htmx:after:swap", refresh);
  refresh();
})();
