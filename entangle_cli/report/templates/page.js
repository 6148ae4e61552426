"use strict";
document.documentElement.classList.add("scripted");
const data = JSON.parse(document.getElementById("data").textContent);
const choice = document.getElementById("loss");
if (choice) {
  const circles = document.querySelectorAll("#points circle");
  const say = document.getElementById("loss-words");
  const show = () => {
    const loss = data.losses[choice.value];
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
