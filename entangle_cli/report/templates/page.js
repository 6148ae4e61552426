"use strict";
document.documentElement.classList.add("scripted");
const data = JSON.parse(document.getElementById("data").textContent);
data.pairs = (data.pairs || []).map(([row, line, file, one, other, why, prompt, chosen, rejected]) =>
  ({ row, line, file, tokens: [one, other], why, prompt, chosen, rejected }));
const find = (id) => document.getElementById(id);
const element = (name, kind, text) => {
  const made = document.createElement(name);
  if (kind) { made.className = kind; }
  if (text !== undefined) { made.textContent = text; }
  return made;
};
const PAGE = 25;
const NUM_MARK = 5;

if (find("map") && data.losses) {
  const marks = [...document.querySelectorAll("#marks path")];
  let loss = data.losses[0];
  const seenRun = () => (loss === data.losses[0] ? data.run : data.folder + " " + loss.options);
  let order = [];
  let shown = PAGE;
  let chosen = -1;

  const movement = (pair) => (loss.movement[pair] < NUM_MARK ? data.movements[loss.movement[pair]] : null);
  const word = (name) => data.marks[name] + " " + data.words[name];
  const place = (pair) => {
    const { line, row, file } = data.pairs[pair];
    return (file ? file + ", " : "") + (line ? "line " + line : "row " + row);
  };
  const slack = (pair) => {
    const cosine = data.cosine[pair] / 1e4;
    const ratio = loss.ratio[pair];
    return ratio === null || cosine <= 0 ? Infinity : -Math.log(cosine) - Math.abs(ratio) / data.scale;
  };
  const times = (pair) => Math.abs(Math.log(data.pairs[pair].tokens[0] / data.pairs[pair].tokens[1]));
  const across = (ratio) => {
    const inside = Math.min(data.edge, Math.max(-data.edge, ratio / data.scale));
    return data.left + (inside + data.edge) / (2 * data.edge) * (data.right - data.left);
  };
  const down = (cosine) => data.top + (1 - Math.max(data.lowest, cosine / 1e4)) / (1 - data.lowest) * (data.bottom - data.top);

  const answer = (title, pieces) => {
    const side = element("div");
    side.append(element("h4", "", title));
    pieces.forEach((text, number) => side.append(element("span", number % 2 ? "shared" : "", text)));
    return side;
  };
  const body = (pair) => {
    const one = data.pairs[pair];
    const made = document.createDocumentFragment();
    made.append(element("p", "why", one.why));
    if (one.chosen) {
      const two = element("div", "two");
      const fates = data.fates[movement(pair)] || ["", ""];
      two.append(answer("Chosen " + fates[0], one.chosen), answer("Rejected " + fates[1], one.rejected));
      made.append(two);
    }
    const option = one.line && !one.file ? " --line " + one.line : " --row " + one.row;
    made.append(element("code", "", "entangle show " + seenRun() + option));
    return made;
  };
  const headline = (pair) => {
    const one = data.pairs[pair];
    const name = movement(pair);
    const amount = slack(pair);
    const meta = place(pair) + " · " + one.tokens.join(" / ") + " tokens" + (isFinite(amount) ? " · slack " + amount.toFixed(2) : "");
    return [element("span", "tag " + (name || ""), name ? word(name) : "no movement"), element("span", "pr", one.prompt || one.why), element("span", "meta", meta)];
  };

  const choose = (pair) => {
    if (marks[chosen]) { marks[chosen].classList.remove("chosen"); }
    chosen = pair;
    marks[pair].classList.add("chosen");
    marks[pair].parentNode.append(marks[pair]);
    const head = element("div", "head");
    head.append(...headline(pair));
    find("panel").replaceChildren(head, body(pair));
    history.replaceState(null, "", "#row-" + data.pairs[pair].row);
  };

  const list = () => {
    const filter = find("filter").value;
    const wanted = find("search").value.toLowerCase();
    const text = (pair) => {
      const one = data.pairs[pair];
      return [place(pair), one.prompt, ...(one.chosen || []), ...(one.rejected || []), one.why].join(" ").toLowerCase();
    };
    const keys = { slack, cosine: (pair) => -data.cosine[pair], length: (pair) => -times(pair), row: (pair) => data.pairs[pair].row };
    const key = keys[find("sort").value];
    order = data.pairs.map((_, pair) => pair)
      .filter((pair) => !filter || (filter === "wrong" ? data.wrong.includes(movement(pair)) : movement(pair) === filter))
      .filter((pair) => !wanted || text(pair).includes(wanted))
      .sort((one, other) => key(one) - key(other));
    find("count").textContent = order.length.toLocaleString("en") + (order.length === 1 ? " pair" : " pairs") + (data.drawn ? " of those drawn" : "");
    find("list").replaceChildren(...order.slice(0, shown).map((pair) => {
      const made = element("details", "pair");
      made.id = "row-" + data.pairs[pair].row;
      const summary = element("summary");
      summary.append(...headline(pair));
      made.append(summary);
      made.addEventListener("toggle", () => {
        if (made.open && made.childElementCount === 1) { made.append(body(pair)); choose(pair); }
      });
      return made;
    }));
    if (!order.length) { find("list").append(element("p", "dim", "None.")); }
    find("more").hidden = order.length <= shown;
  };

  const ownSteps = [...find("steps").childNodes];
  const otherSteps = () => {
    const steps = element("ul");
    [["See every output under this loss.", "entangle report " + data.folder], ["Check with your batch size and AdamW.", data.forecast]].forEach(([words, command]) => {
      const step = element("li", "", words + " ");
      step.append(element("code", "", command + " " + loss.options));
      steps.append(step);
    });
    return [element("h2", "", "What you can do"), steps];
  };
  const percent = (share) => (share > 0 && share < 0.005 ? "<1" : share > 0.995 && share < 1 ? "99" : (100 * share).toFixed(0)) + " %";
  const bar = (holder, counts, words) => {
    const total = counts.reduce((sum, count) => sum + count, 0);
    holder.replaceChildren(...data.movements.flatMap((name, kind) => {
      if (!counts[kind]) { return []; }
      const share = counts[kind] / total;
      const segment = element("span", "seg " + name + (share < 0.06 ? " tiny" : share < 0.16 ? " short" : ""));
      segment.style.flexGrow = counts[kind];
      segment.title = data.words[name] + " " + percent(share);
      if (words) {
        const label = element("span", "of");
        label.append(element("b", "", percent(share)), " " + data.marks[name], element("span", "name", " " + data.words[name]));
        segment.append(label);
      }
      return [segment];
    }));
    return total;
  };
  const factor = (grid, groups) => {
    const shares = groups.map((counts) => 1 - counts[0] / counts.reduce((sum, count) => sum + count, 0));
    grid.querySelectorAll(".bar").forEach((holder, group) => bar(holder, groups[group], false));
    grid.querySelectorAll(".number").forEach((holder, group) => { holder.textContent = percent(shares[group]); });
    if (shares.length > 1) {
      grid.nextElementSibling.firstElementChild.textContent =
        percent(shares[0]) + " do not separate in the lowest group, " + percent(shares[shares.length - 1]) + " in the highest.";
    }
  };

  const show = (number) => {
    loss = data.losses[number];
    find("loss").value = number;
    find("verdict").textContent = loss.verdict + (loss.consequence ? " " + loss.consequence + "." : "");
    bar(document.querySelector(".main.bar"), loss.counts, true);
    find("steps").replaceChildren(...(number === 0 ? ownSteps : otherSteps()));
    if (find("gate")) { find("gate").hidden = number !== 0; }
    document.querySelectorAll("[data-factor]").forEach((grid) => factor(grid, loss.factors[grid.dataset.factor]));
    find("why").replaceChildren(...(loss.reasons.length ? loss.reasons : ["No pair goes the wrong way."]).map((sentence) => element("li", "", sentence)));
    marks.forEach((mark, pair) => {
      const name = movement(pair);
      const ratio = loss.ratio[pair];
      mark.setAttribute("class", (name || "none") + (pair === chosen ? " chosen" : ""));
      if (name === null || ratio === null || data.cosine[pair] === null) { mark.removeAttribute("d"); return; }
      mark.setAttribute("d", "M" + across(ratio).toFixed(0) + "," + down(data.cosine[pair]).toFixed(0) + data.shapes[name]);
    });
    document.querySelectorAll("#map .density").forEach((square) => square.setAttribute("display", number === 0 ? "inline" : "none"));
    document.querySelectorAll("[data-loss]").forEach((button) => button.setAttribute("aria-pressed", String(Number(button.dataset.loss) === number)));
    shown = PAGE;
    list();
  };

  marks.forEach((mark, pair) => mark.addEventListener("click", () => choose(pair)));
  const tip = element("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  find("map").addEventListener("mousemove", (event) => {
    const pair = marks.indexOf(event.target);
    tip.hidden = pair < 0;
    if (pair >= 0) {
      tip.textContent = place(pair) + " " + word(movement(pair)) + ": " + (data.pairs[pair].prompt || data.pairs[pair].why);
      tip.style.left = Math.min(event.clientX + 14, innerWidth - 280) + "px";
      tip.style.top = event.clientY + 14 + "px";
    }
  });
  find("map").addEventListener("mouseleave", () => { tip.hidden = true; });
  find("map").addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Enter: 0 };
    if (!(event.key in steps) || !order.length) { return; }
    event.preventDefault();
    const at = order.indexOf(chosen);
    choose(order[Math.max(0, Math.min(order.length - 1, at + (steps[event.key] || (at < 0 ? 1 : 0))))]);
  });
  find("loss").addEventListener("change", () => show(Number(find("loss").value)));
  document.querySelectorAll("[data-loss]").forEach((button) => button.addEventListener("click", () => show(Number(button.dataset.loss))));
  ["filter", "sort"].forEach((id) => find(id).addEventListener("change", () => { shown = PAGE; list(); }));
  find("search").addEventListener("input", () => { shown = PAGE; list(); });
  find("more").addEventListener("click", () => { shown += PAGE; list(); });
  list();
  const named = data.pairs.findIndex((one) => location.hash === "#row-" + one.row);
  if (named >= 0) { choose(named); } else if (order.length) { const hash = location.hash; choose(order[0]); history.replaceState(null, "", hash || location.pathname + location.search); }
}

document.querySelectorAll("table.sortable th button").forEach((button) => {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const rows = heading.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const up = heading.getAttribute("aria-sort") !== "ascending";
    heading.parentElement.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => {
      const text = row.cells[column].textContent.trim();
      const number = Number(text.replaceAll(",", "").replace("%", ""));
      return Number.isNaN(number) || text === "" ? text : number;
    };
    [...rows.rows].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return up ? order : -order;
    }).forEach((row) => rows.append(row));
  });
});
