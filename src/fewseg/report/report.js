"use strict";
// A click on a head sorts by it: numbers from large to small first, text from A to Z; empty cells stay last.
for (const head of document.querySelectorAll("table.sortable th")) {
  head.firstElementChild.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const text = head.classList.contains("text");
    const ascending = head.ariaSort === null ? text : head.ariaSort !== "ascending";
    const key = (row) => row.cells[head.cellIndex].dataset.sort;
    const compare = (a, b) => (text ? a.localeCompare(b) : a - b) * (ascending ? 1 : -1);
    const rows = [...body.rows].sort((a, b) =>
      key(a) === "" || key(b) === "" ? (key(a) === "") - (key(b) === "") : compare(key(a), key(b)));
    for (const other of head.parentElement.cells) other.ariaSort = null;
    head.ariaSort = ascending ? "ascending" : "descending";
    body.append(...rows);
  });
}

// The filter shows rows and plots of one setting. What does not name a part of it is of all its values.
for (const filter of document.querySelectorAll("form.filter")) {
  filter.hidden = false;
  filter.addEventListener("submit", (event) => event.preventDefault());
  filter.addEventListener("change", () => {
    const wanted = [...filter.elements].filter((one) => one.value !== "" && one.name).map((one) => [one.name, one.value]);
    for (const one of document.querySelectorAll(".setting"))
      one.hidden = wanted.some(([name, value]) => !(one.dataset[name] ?? value).split(", ").includes(value));
    for (const section of document.querySelectorAll("section, details")) {
      const marked = [...section.querySelectorAll(".setting")];
      if (marked.length > 0 && !section.contains(filter)) section.hidden = marked.every((one) => one.hidden);
    }
    for (const link of document.querySelectorAll("nav a"))
      link.hidden = document.getElementById(link.hash.slice(1)).hidden;
    const rows = [...filter.closest("section").querySelectorAll("tr.setting")];
    filter.querySelector("output").value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} lines`;
    window.dispatchEvent(new Event("resize")); // plots that were hidden take their width
  });
}

// What is folded away has no width until it is opened.
for (const fold of document.querySelectorAll("details"))
  fold.addEventListener("toggle", () => window.dispatchEvent(new Event("resize")));

const gallery = document.querySelector(".gallery");
if (gallery) {
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const field = (name) => gallery.querySelector(`[name="${name}"]`);
  const [config, run, kind, order, pictured] = ["config", "run", "class", "order", "pictured"].map(field);
  let places = []; // of the episodes that are chosen, in their order
  let at = 0;

  const make = (tag, text, css) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (css) made.className = css;
    return made;
  };
  const fill = (select, entries) => {
    select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
  };
  const own = () => data.runs[run.value];
  const asked = () => data.lists[own().list];
  const share = (mille) => (mille < 0 ? "–" : `${(mille / 10).toFixed(1)} %`);
  // below 0: the query does not show the class and nothing is found in it, which is the right answer
  const iou = (mille) => (mille < 0 ? "nothing there, nothing found" : (mille / 1000).toFixed(3));
  const merit = (mille) => (mille < 0 ? 1000 : mille);
  const source = (name) => data.pictures[name] ?? document.getElementById(name).src;

  const chooseConfig = () => {
    const label = run.selectedOptions[0]?.textContent;
    const found = [...data.runs.entries()].filter(([, one]) => one.config === config.value);
    fill(run, found.map(([i, one]) => [i, one.label]));
    const same = [...run.options].find((one) => one.textContent === label); // the same setting of another method
    if (same) run.value = same.value;
    chooseRun();
  };
  const chooseRun = () => {
    const before = kind.value && kind.selectedOptions[0].textContent; // numbers are of one list, names of all
    fill(kind, [["", "all"], ...asked().classes.map((name, i) => [i, name])]);
    const same = before ? asked().classes.indexOf(before) : -1;
    kind.value = same < 0 ? "" : same;
    select();
  };
  const select = () => {
    const before = places[at];
    const withPicture = new Set(own().pictures.map(([place]) => place));
    places = own().iou.map((_, i) => i).filter((i) =>
      (kind.value === "" || asked().class[i] === Number(kind.value)) && (!pictured.checked || withPicture.has(i)));
    const sign = { list: 0, worst: 1, best: -1 }[order.value];
    if (sign) places.sort((a, b) => sign * (merit(own().iou[a]) - merit(own().iou[b])) || a - b);
    at = sign ? 0 : Math.max(0, places.indexOf(before));
    show();
  };
  const show = () => {
    const place = places[at];
    gallery.querySelector(".pager output").value = places.length ? `${at + 1} of ${places.length}` : "no episode";
    field("previous").disabled = at <= 0;
    field("next").disabled = at >= places.length - 1;
    const [shown, facts, others] = [".shown", ".told dl", ".others"].map((name) => gallery.querySelector(name));
    if (place === undefined) return [shown, facts, others].forEach((one) => one.replaceChildren());
    const [mine, list] = [own(), asked()];
    const number = list.episode ? list.episode[place] : place;
    const names = (indices) => indices.map((i) => data.ids[i]).join(", ");
    const pictures = mine.pictures.filter(([where]) => where === place);
    shown.replaceChildren(...pictures.map(([, name, what]) => {
      const [figure, image] = [make("figure"), make("img")];
      image.src = source(name);
      image.alt = `${what}: episode ${number} of ${mine.config}`;
      figure.append(image, make("figcaption", what === "list" ? "" : what));
      return figure;
    }));
    if (pictures.length === 0) shown.append(make("p", "No picture of this episode on this page.", "quiet"));
    const told = [
      ["episode", `${number} of ${mine.label}`],
      ["class", list.classes[list.class[place]] + (list.present && !list.present[place] ? " (not in the query)" : "")],
      [mine.measure, iou(mine.iou[place])],
      ["query", data.ids[list.query[place]]],
      ["support", names(list.support[place])],
      ["points", mine.p === "dense" ? "dense" : `${mine.p} per label and image`],
      ["clicks", mine.clicks?.[place]],
      ["objects", list.objects?.[place]],
      ["frames", list.frames?.[place]],
      ["detections", mine.detections?.[place]],
      ["true area", share(list.truth[place])],
      ["found area", share(mine.found[place])],
      ["folder", mine.folder],
    ].filter(([, value]) => value !== undefined && value !== "" && value !== 0);
    facts.replaceChildren(...told.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
    // other runs of the same list, the best first
    const rivals = data.runs.filter((one) => one.list === mine.list)
      .sort((a, b) => merit(b.iou[place]) - merit(a.iou[place]));
    others.replaceChildren();
    if (rivals.length > 1) {
      others.append(make("p", `${mine.measure} of all runs on this episode`, "quiet"));
      for (const one of rivals) {
        const line = make("div", undefined, one === mine ? "bar own" : "bar");
        const names = rivals.filter((other) => other.config === one.config).length > 1;
        line.style.setProperty("--share", `${merit(one.iou[place]) / 10}%`);
        line.append(make("span", one.config + (names ? ` (${one.label})` : "")), make("span", iou(one.iou[place])));
        others.append(line);
      }
    }
  };
  const step = (by) => {
    at = Math.min(Math.max(at + by, 0), places.length - 1);
    show();
  };

  fill(config, [...new Set(data.runs.map((one) => one.config))].map((name) => [name, name]));
  config.addEventListener("change", chooseConfig);
  run.addEventListener("change", chooseRun);
  for (const one of [kind, order, pictured]) one.addEventListener("change", select);
  field("previous").addEventListener("click", () => step(-1));
  field("next").addEventListener("click", () => step(1));
  gallery.addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT" || event.altKey || event.ctrlKey || event.metaKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  gallery.hidden = false;
  chooseConfig();
  const first = own().pictures.map(([place]) => place).sort((a, b) => a - b)[0];
  if (first !== undefined) step(places.indexOf(first));
}
