// The table of scores: bars and numbers for the clean and the triggered image.

const KINDS = ["clean", "triggered"];
const CHANGE = .1; // changes of at least this much are in bold

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export class Scores {
  constructor(body, titles, choose) {
    this.rows = titles.map((title, index) => {
      const button = element("button", { type: "button", textContent: title });
      button.addEventListener("click", () => choose(index));
      const bars = KINDS.map((kind) => element("i", { className: kind })), mark = element("u");
      const track = element("div", { className: "track" }, ...bars, mark);
      track.setAttribute("aria-hidden", "true"); // screen readers read the numbers
      const numbers = KINDS.map(() => element("td"));
      const change = element("td");
      const row = element("tr", {}, element("th", { scope: "row" }, button), element("td", {}, track), ...numbers, change);
      return { row, button, bars, mark, numbers, change };
    });
    body.replaceChildren(...this.rows.map((one) => one.row));
  }

  show(scores, target, threshold) {
    for (const [index, { row, button, bars, mark, numbers, change }] of this.rows.entries()) {
      row.classList.toggle("explained", index === target);
      button.setAttribute("aria-pressed", String(index === target));
      mark.style.left = `${100 * threshold}%`;
      const [clean, triggered] = KINDS.map((_, kind) => scores[kind]?.[index]);
      for (const [kind, score] of [clean, triggered].entries()) {
        bars[kind].style.width = `${100 * (score ?? 0)}%`;
        const reported = score >= threshold;
        numbers[kind].classList.toggle("reported", reported);
        const spoken = element("span", { className: "hidden", textContent: reported ? " reported" : "" });
        numbers[kind].replaceChildren(score === undefined ? "–" : score.toFixed(3), spoken);
      }
      const moved = triggered === undefined ? null : triggered - clean;
      change.textContent = moved === null ? "–" : signed(moved);
      change.classList.toggle("large", Math.abs(moved) >= CHANGE);
    }
  }
}

function signed(number) {
  const digits = Math.abs(number).toFixed(3);
  return `${digits === "0.000" ? "" : number > 0 ? "+" : "−"}${digits}`;
}
