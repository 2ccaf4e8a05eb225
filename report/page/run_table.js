// ---- the table of runs: sorts, filters, and dims and colours the runs' marks in the figures ----

function runTable(table) {
  const heads = [...table.querySelectorAll("th[data-sort]")], rows = [...table.querySelectorAll("tr[data-run]")];
  const marks = new Map(rows.map((row) => [row.dataset.run, []]));
  for (const mark of document.querySelectorAll("svg [data-run]")) marks.get(mark.dataset.run)?.push(mark);
  const textOf = (cell) => cell.dataset.value ?? cell.textContent.trim();
  const valueOf = (row, head) => textOf(row.cells[head.cellIndex]);
  const legend = make("ul", { class: "key", "aria-live": "polite" }), status = make("span", { "aria-live": "polite" });
  const filter = make("input", { type: "search", autocomplete: "off" });
  const select = make("select", {}, make("option", { value: "-1" }, "as drawn"));

  function sort(head) {
    const number = head.dataset.sort === "number";
    const was = head.getAttribute("aria-sort");
    const order = was ? (was === "ascending" ? "descending" : "ascending") : number ? "descending" : "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const keys = new Map(rows.map((row) => [row, number ? parseFloat(valueOf(row, head)) : valueOf(row, head)]));
    const missing = (key) => key === "" || Number.isNaN(key);
    const compare = number ? (a, b) => a - b : (a, b) => a.localeCompare(b, "en", { numeric: true });
    const sorted = [...rows].sort((a, b) => {
      const [x, y] = [keys.get(a), keys.get(b)];
      return missing(x) || missing(y) ? missing(x) - missing(y) : sign * compare(x, y);
    });
    sorted[0]?.parentNode.append(...sorted);
  }
  function narrow() {
    const wanted = filter.value.trim().toLowerCase();
    let left = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      left += !row.hidden;
      for (const mark of marks.get(row.dataset.run)) mark.classList.toggle("dimmed", row.hidden);
    }
    status.textContent = `${left} of ${rows.length} runs`;
  }
  function paint() {
    const head = heads[select.value];
    const scaleOf = head?.dataset.sort === "number" ? sequence : categories;
    const scale = head ? scaleOf(rows.map((row) => valueOf(row, head))) : null;
    for (const row of rows) {
      const colour = scale ? scale.colour(valueOf(row, head)) : "";
      for (const mark of marks.get(row.dataset.run)) tint(mark, colour);
    }
    legend.replaceChildren(...(scale?.legend ?? []).map(([words, colour]) => {
      const swatch = make("span", { class: "swatch" });
      swatch.style.background = colour;
      return make("li", {}, swatch, words);
    }));
  }
  for (const head of heads) {
    const words = head.textContent, sorter = button("", () => sort(head), { class: "sort" });
    sorter.append(...head.childNodes);
    head.append(sorter);
    if ("colour" in head.dataset) select.append(make("option", { value: String(heads.indexOf(head)) }, words));
  }
  filter.addEventListener("input", narrow);
  select.addEventListener("change", paint);
  const colouring = select.options.length > 1 ? [make("label", {}, "colour by ", select)] : [];
  const controls = make("div", { class: "controls" }, make("label", {}, "filter runs ", filter), status, ...colouring);
  (table.closest(".scroll") ?? table).before(controls, legend);
  narrow();
}

function tint(mark, colour) {
  for (const part of ["fill", "stroke"]) {
    const own = mark.getAttribute(part) ?? "none";
    if (!["none", "transparent", "white", "#fff", "#ffffff"].includes(own)) mark.style[part] = colour;
  }
}

function categories(values) {
  const distinct = [...new Set(values)].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const named = distinct.slice(0, THEME.categories.length), rest = distinct.length - named.length;
  const colour = (value) => THEME.categories[named.indexOf(value)] ?? THEME.other;
  const legend = named.map((value) => [value || "none", colour(value)]);
  return { colour, legend: rest ? [...legend, [`${rest} others`, THEME.other]] : legend };
}

function sequence(values) {
  const numbers = values.map(parseFloat).filter((value) => !Number.isNaN(value));
  const low = Math.min(...numbers), high = Math.max(...numbers), last = THEME.sequence.length - 1;
  const step = (value) => (high > low ? Math.round(((value - low) / (high - low)) * last) : last);
  const colour = (value) => THEME.sequence[step(parseFloat(value))] ?? THEME.other;
  const words = (at) => String(Number((low + ((high - low) * at) / last).toPrecision(3)));
  const steps = high > low ? THEME.sequence.map((shade, at) => [words(at), shade]) : [];
  const missing = numbers.length < values.length ? [["not measured", THEME.other]] : [];
  return { colour, legend: [...(high === low ? [[String(low), THEME.sequence[last]]] : steps), ...missing] };
}

document.querySelectorAll("table.runs").forEach(runTable);
