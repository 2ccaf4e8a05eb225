// The page's interaction. Data stand in the page as JSON; what comes of them is put in as text, never as markup.
const still = matchMedia("(prefers-reduced-motion: reduce)");
const tip = document.getElementById("tip");
let made = 0;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function button(text, act, attributes = {}) {
  const element = make("button", { type: "button", ...attributes }, text);
  element.addEventListener("click", act);
  return element;
}

function inWords(number) {
  return number.toLocaleString("en");
}

function joined(...words) {
  return words.filter(Boolean).join(" · ");
}

function dataOf(widget) {
  return JSON.parse(widget.querySelector(":scope > script").textContent);
}

function picture(index) {
  const place = make("span", { class: "picture" });
  if (index >= 0) place.append(make("img", { alt: "", src: "data:image/webp;base64," + pictures()[index] }));
  return place;
}

function pictures() {
  const stored = document.getElementById("pictures");
  return (pictures.all ??= stored ? JSON.parse(stored.textContent) : []);
}

// ---- tooltips: marks carry their own words in aria-label, shown beside the pointer ----

function showTip(text, event) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  tip.style.left = Math.max(8, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = Math.max(8, event.clientY - tip.offsetHeight - 12) + "px";
}

function tipOfMark(event) {
  if (!event.target.closest(".plot[tabindex]")) {
    showTip(event.target.closest("figure svg [aria-label]:not(svg)")?.getAttribute("aria-label"), event);
  }
}

addEventListener("pointermove", tipOfMark);
addEventListener("pointerdown", tipOfMark);
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
addEventListener("scroll", () => { tip.hidden = true; }, true);

// ---- sliders over epochs ----

function slider(widget, names, show) {
  const range = widget.querySelector("input[type=range]"), output = widget.querySelector("output");
  const play = widget.querySelector("button.play");
  let timer = 0;
  function move() {
    output.textContent = names[range.value];
    range.setAttribute("aria-valuetext", names[range.value]);
    show(Number(range.value));
  }
  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  }
  function step() {
    range.stepUp();
    move();
    if (range.value === range.max) stop();
  }
  range.addEventListener("input", () => { stop(); move(); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (range.value === range.max) {
      range.value = 0;
      move();
    }
    play.textContent = "Pause";
    timer = setInterval(step, 900);
  });
  move();
}

function stages(widget) {
  const { epochs, ids, labels, label, shade, sides, shapes, xy } = dataOf(widget);
  const svg = widget.querySelector(".plot"), ring = svg.querySelector(".ring"), words = widget.querySelector(".point");
  const count = ids.length, size = svg.viewBox.baseVal.width;
  const paths = [...svg.querySelectorAll("path")].map((path) => {
    const side = Number(path.dataset.side), colour = Number(path.dataset.shade);
    const members = [...ids.keys()].filter((i) => shade[label[i]] === colour).map((i) => side * count + i);
    return { path, shape: shapes[side], members };
  });
  const moments = xy.map((bySide) => bySide.flat());
  let places = null, chosen = -1, frame = 0;

  function draw(next) {
    places = next;
    for (const { path, shape, members } of paths) {
      const drawn = members.filter((i) => places[2 * i] !== null);
      path.setAttribute("d", drawn.map((i) => `M${places[2 * i]} ${places[2 * i + 1]}${shape}`).join(""));
    }
    placeRing();
  }
  function placeRing() {
    const shown = chosen >= 0 && places[2 * chosen] !== null;
    ring.setAttribute("cx", shown ? places[2 * chosen] : -size);
    ring.setAttribute("cy", shown ? places[2 * chosen + 1] : 0);
  }
  function glide(target) {
    cancelAnimationFrame(frame);
    if (!places || still.matches) return draw(target);
    const from = places, began = performance.now();
    const between = (now) => {
      const share = Math.min(1, (now - began) / 450), eased = share * share * (3 - 2 * share);
      if (share === 1) return draw(target);
      const move = (to, i) => (to === null || from[i] === null ? to : Math.round(from[i] + (to - from[i]) * eased));
      draw(target.map(move));
      frame = requestAnimationFrame(between);
    };
    frame = requestAnimationFrame(between);
  }
  function choose(point) {
    chosen = point;
    const i = point % count, side = sides[Math.floor(point / count)];
    words.textContent = point < 0 ? "" : joined(ids[i], labels[label[i]], side);
    placeRing();
  }
  function nearest(event) {
    const box = svg.getBoundingClientRect(), unit = size / box.width;
    const x = (event.clientX - box.left) * unit, y = (event.clientY - box.top) * unit;
    let best = -1, closest = (14 * unit) ** 2;
    for (let i = 0; i < count * sides.length; i += 1) {
      const away = places[2 * i] === null ? Infinity : (places[2 * i] - x) ** 2 + (places[2 * i + 1] - y) ** 2;
      if (away < closest) [best, closest] = [i, away];
    }
    return best;
  }
  for (const type of ["pointermove", "pointerdown"]) {
    svg.addEventListener(type, (event) => {
      choose(nearest(event));
      showTip(words.textContent, event);
    });
  }
  svg.addEventListener("pointerleave", () => { choose(-1); tip.hidden = true; });
  svg.addEventListener("focus", () => { if (chosen < 0 && svg.matches(":focus-visible")) choose(0); });
  svg.addEventListener("blur", () => choose(-1));
  svg.addEventListener("keydown", (event) => {
    const all = count * sides.length;
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }, ends = { Home: 0, End: all - 1 };
    if (!(event.key in steps) && !(event.key in ends)) return;
    event.preventDefault();
    choose(ends[event.key] ?? (chosen + steps[event.key] + all) % all);
  });
  slider(widget, epochs, (epoch) => glide(moments[epoch]));
}

function spaces(widget) {
  const { epochs, xy, labels, agreement } = dataOf(widget);
  const moving = [...widget.querySelectorAll(".plot .moving")], texts = [...widget.querySelectorAll(".plot text")];
  const cells = [...widget.querySelectorAll(".agreement td")];
  slider(widget, epochs, (epoch) => {
    moving.forEach((group, i) => {
      const known = xy[i].slice(0, epoch + 1).filter(Boolean), [x, y] = known.at(-1) ?? [-1000, 0];
      const path = known.map((point) => point.join(" ")).join("L");
      group.querySelector("path").setAttribute("d", path && `M${path}`);
      group.querySelector("circle").style.transform = `translate(${x}px, ${y}px)`;
    });
    texts.forEach((text, i) => {
      const [x, y, ends] = labels[epoch][i] ?? [-1000, 0, 0];
      text.setAttribute("text-anchor", ends ? "end" : "start");
      text.style.transform = `translate(${x}px, ${y}px)`;
    });
    cells.forEach((cell, i) => { cell.textContent = agreement[i][epoch]; });
  });
}

// ---- neighbours of one group in every space ----

function combobox(entries, choose) {
  const id = `results-${made += 1}`;
  const list = make("ul", { role: "listbox", id, "aria-label": "Groups", hidden: "" });
  const input = make("input", {
    type: "text", role: "combobox", "aria-expanded": "false", "aria-controls": id, "aria-autocomplete": "list",
    autocomplete: "off", spellcheck: "false",
  });
  const status = make("span", { class: "status", "aria-live": "polite" });
  let results = [], active = -1;
  function close() {
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }
  function take(result) {
    close();
    input.value = status.textContent = "";
    choose(result);
  }
  function point(to) {
    list.children[active]?.setAttribute("aria-selected", "false");
    active = to;
    const option = list.children[active];
    option.setAttribute("aria-selected", "true");
    option.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", option.id);
  }
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    close();
    const all = wanted ? [...entries.keys()].filter((i) => entries[i].text.includes(wanted)) : [];
    all.sort((a, b) => (entries[b].name === wanted) - (entries[a].name === wanted));
    results = all.slice(0, 12);
    list.replaceChildren(...results.map((result, i) => {
      const attributes = { role: "option", id: `${id}-${i}`, "aria-selected": "false" };
      const option = make("li", attributes, ...entries[result].show());
      option.addEventListener("pointerdown", (event) => { event.preventDefault(); take(result); });
      return option;
    }));
    list.hidden = !results.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    status.textContent = !wanted ? "" : `${inWords(all.length)} found${all.length > 12 ? ", 12 shown" : ""}`;
  });
  input.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key === "Escape") close();
    if (event.key === "Enter" && !list.hidden) take(results[Math.max(0, active)]);
    if (!(event.key in steps) || list.hidden) return;
    event.preventDefault();
    const from = active < 0 && event.key === "ArrowUp" ? 0 : active;
    point((from + steps[event.key] + results.length) % results.length);
  });
  input.addEventListener("blur", close);
  return make("div", { class: "combobox" }, make("label", {}, "search ", input), list, status);
}

function neighbours(widget) {
  const data = dataOf(widget), { ids, labels, label, texts, near, reference } = data;
  const count = label.length, place = widget.querySelector(".browser");
  const known = reference < 0 ? [] : near[reference].map((own) => new Set(own));
  const shared = (space, i) => near[space][i].filter((other) => known[i].has(other)).length;
  const caption = (i) => (texts[i] ? [make("q", {}, texts[i])] : []);
  const thumb = (i) => (data.pictures.length ? [picture(data.pictures[i])] : []);
  const name = (i) => make("span", { class: "name" }, ids[i]);
  const words = (i) => [...thumb(i), make("span", { class: "words" }, name(i), ...caption(i))];
  const entries = label.map((of, i) => ({
    name: ids[i].toLowerCase(),
    text: [ids[i], labels[of], texts[i]].join("\n").toLowerCase(),
    show: () => [name(i), " ", make("small", {}, joined(labels[of], texts[i]))],
  }));
  const heading = make("div", { class: "chosen", "aria-live": "polite" }), columns = make("div", { class: "columns" });
  let current = 0;

  function column(space) {
    const own = near[space][current], judged = reference >= 0 && space !== reference;
    const items = own.map((other) => {
      const same = judged && known[current].has(other);
      const tick = make("b", { class: "tick" }, "✓", make("span", { class: "hidden" }, " shared"));
      const item = other < count ? button("", () => go(other)) : make("span");
      item.append(...(same ? [tick] : []), ...words(other));
      return make("li", same ? { class: "shared" } : {}, item);
    });
    const score = judged ? `${shared(space, current)} of ${own.length} shared` : reference < 0 ? "" : "the reference";
    const title = make("h4", {}, data.spaces[space], make("small", {}, score));
    return make("section", {}, title, make("ol", {}, ...items));
  }
  function go(i) {
    current = i;
    const where = `group ${inWords(i + 1)} of ${inWords(count)}`;
    heading.replaceChildren(...words(i));
    heading.lastChild.append(make("small", {}, joined(labels[label[i]], where)));
    columns.replaceChildren(...near.map((_, space) => column(space)));
  }
  function step(by) {
    go((current + by + count) % count);
  }
  place.append(
    make("div", { class: "controls" }, combobox(entries, go), button("Previous", () => step(-1)),
      button("Next", () => step(1)), button("Random", () => go(Math.floor(Math.random() * count)))),
    ...gains(shared, data, go), heading, columns);
  go(0);
}

function gains(shared, { label, raw, joint, reference, ids, texts }, go) {
  if (reference < 0 || joint < 0 || !raw.length) return [];
  const gainOf = (i) => shared(joint, i) - Math.max(...raw.map((space) => shared(space, i)));
  const all = [...label.keys()].map((i) => ({ i, gain: gainOf(i) }));
  const lists = {
    "the joint gained most over the best raw part": all.filter(({ gain }) => gain > 0).sort((a, b) => b.gain - a.gain),
    "it lost most": all.filter(({ gain }) => gain < 0).sort((a, b) => a.gain - b.gain),
  };
  return Object.entries(lists).map(([words, rows]) => {
    const entries = rows.slice(0, 6).map(({ i, gain }) => {
      const entry = button("", () => go(i));
      const caption = texts[i] ? ` ${texts[i].length > 24 ? texts[i].slice(0, 23) + "…" : texts[i]}` : "";
      entry.append(make("span", { class: "name" }, ids[i]), caption, ` ${gain > 0 ? "+" : "−"}${Math.abs(gain)}`);
      return entry;
    });
    const title = make("span", {}, `Groups where ${words}:`);
    return make("div", { class: "gains" }, title, ...(entries.length ? entries : ["none"]));
  });
}

// ---- retrieval: one direction and kind of query at a time ----

function gallery(widget) {
  const panels = [...widget.querySelectorAll("details")], tabs = [...widget.querySelectorAll("[role=tab]")];
  const direction = widget.querySelector("select");
  widget.classList.add("tabbed");
  for (const panel of panels) {
    panel.id = `panel-${made += 1}`;
    panel.setAttribute("role", "tabpanel");
    for (const place of panel.querySelectorAll("[data-picture]")) place.dataset.waits = "";
  }
  function show(kind) {
    for (const tab of tabs) {
      const chosen = tab.dataset.kind === kind;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    for (const panel of panels) {
      panel.open = panel.dataset.kind === kind && panel.dataset.direction === direction.value;
      if (!panel.open) continue;
      const tab = tabs.find((one) => one.dataset.kind === kind);
      tab.setAttribute("aria-controls", panel.id);
      panel.setAttribute("aria-label", `${direction.selectedOptions[0].textContent}: ${kind}`);
      for (const place of panel.querySelectorAll("[data-waits]")) {
        place.replaceWith(picture(Number(place.dataset.picture)));
      }
    }
  }
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => show(tab.dataset.kind));
    tab.addEventListener("keydown", (event) => {
      const next = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      const to = tabs[(next + tabs.length) % tabs.length];
      show(to.dataset.kind);
      to.focus();
    });
  });
  direction.addEventListener("change", () => show(tabs.find((tab) => tab.tabIndex === 0).dataset.kind));
  show(tabs[0].dataset.kind);
}

const kinds = { stages, spaces, neighbours, gallery };
for (const widget of document.querySelectorAll("[data-widget]")) kinds[widget.dataset.widget](widget);
