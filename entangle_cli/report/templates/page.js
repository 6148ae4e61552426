"use strict";
document.documentElement.classList.add("scripted");
const data = JSON.parse(document.getElementById("data").textContent);
const choice = document.getElementById("loss");
if (choice) {
  const circles = document.querySelectorAll("#points circle");
  const say = document.getElementById("loss-words");
  const holder = document.getElementById("plotly");
  const zoom = (loss) => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue("--" + name).trim();
    const places = data.movements.map((_, number) =>
      data.cosine.map((_, place) => place).filter((place) => loss.movement[place] === number && loss.log_ratio[place] !== null));
    const points = places.map((own, number) => ({
      type: "scatter", mode: "markers", name: data.movements[number],
      x: own.map((place) => loss.log_ratio[place]), y: own.map((place) => data.cosine[place]),
      text: own.map((place) => "row " + data.rows[place]),
      hovertemplate: "%{text}<br>log ratio %{x:.3f}<br>cosine %{y:.4f}<extra></extra>",
      marker: { color: colour(data.movements[number]), size: 5 },
    }));
    const across = Array.from({ length: 121 }, (_, place) => -3 + place / 20);
    const edge = { type: "scatter", mode: "lines", name: "boundary", x: across, y: across.map((x) => Math.exp(-Math.abs(x))),
      hoverinfo: "skip", line: { color: colour("dim"), width: 1 } };
    const axis = (title, range) => ({ title: { text: title }, range, color: colour("text"), gridcolor: colour("line") });
    Plotly.react(holder, [...points, edge], {
      paper_bgcolor: colour("paper"), plot_bgcolor: colour("paper"), font: { color: colour("text") },
      xaxis: axis("log of the weighted norm ratio", [-data.edge, data.edge]), yaxis: axis("cosine", [data.lowest, 1.02]),
      margin: { t: 30, r: 10 }, legend: { orientation: "h", y: 1.1 },
    }, { displayModeBar: false, responsive: true });
  };
  const show = () => {
    const loss = data.losses[choice.value];
    if (holder) { zoom(loss); }
    circles.forEach((circle, place) => {
      const x = loss.x[place];
      circle.setAttribute("class", x === null ? "none" : data.movements[loss.movement[place]]);
      circle.setAttribute("r", x === null ? "0" : "2.4");
      if (x !== null) { circle.setAttribute("cx", x); circle.setAttribute("cy", data.y[place]); }
    });
    say.textContent = loss.words;
    document.querySelectorAll("#map .density").forEach((square) => {
      square.setAttribute("display", loss.own ? "inline" : "none");
    });
  };
  choice.addEventListener("change", show);
  if (holder) {
    document.getElementById("map").style.display = "none";
    zoom(data.losses[0]);
  }
}
const search = document.getElementById("search");
if (search) {
  search.addEventListener("input", () => {
    const wanted = search.value.toLowerCase();
    document.querySelectorAll("#pairs tbody tr").forEach((row) => {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
  });
}
document.querySelectorAll("table.sortable th button").forEach((button) => {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const place = heading.cellIndex;
    const up = heading.getAttribute("aria-sort") !== "ascending";
    heading.parentElement.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => {
      const text = row.cells[place].textContent.trim();
      const number = Number(text.replaceAll(",", "").replace("%", ""));
      return Number.isNaN(number) || text === "" ? text : number;
    };
    [...body.rows].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return up ? order : -order;
    }).forEach((row) => body.append(row));
  });
});
