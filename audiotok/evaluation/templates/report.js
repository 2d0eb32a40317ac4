"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// One voice at a time; the playhead follows it; a click into a picture plays from there.
for (const version of all(".version")) {
  const [audio, pictures, head] = [".said audio", ".pictures", ".playhead"].map((selector) => version.querySelector(selector));
  const follow = () => {
    head.style.visibility = audio.currentTime > 0 ? "visible" : "hidden";
    head.style.left = `${(100 * audio.currentTime) / audio.duration}%`;
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener("play", () => {
    all("audio").filter((other) => other !== audio).forEach((other) => other.pause());
    follow();
  });
  audio.addEventListener("seeked", follow);
  pictures.addEventListener("click", (event) => {
    const box = pictures.getBoundingClientRect();
    audio.currentTime = (audio.duration * (event.clientX - box.left)) / box.width;
    audio.play();
  });
}

// The value of each line at the step under the pointer.
for (const panel of all(".panel[data-lines]")) {
  const lines = JSON.parse(panel.dataset.lines);
  const [svg, cursor, output] = ["svg", ".cursor", "output"].map((selector) => panel.querySelector(selector));
  const steps = lines.flatMap((line) => line.steps);
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const [left, right] = panel.dataset.range.split(" ").map(Number);
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const step = first + Math.min(1, Math.max(0, (x - left) / (right - left))) * (last - first);
    const near = (line) => line.steps.reduce((best, at, index) => (Math.abs(at - step) < Math.abs(line.steps[best] - step) ? index : best), 0);
    const place = left + ((step - first) / (last - first || 1)) * (right - left);
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    cursor.setAttribute("visibility", "visible");
    output.textContent = lines.map((line) => `${line.split} ${line.values[near(line)].toPrecision(4)} at ${line.steps[near(line)]}`).join(" · ");
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    output.textContent = "";
  });
}

// Find and order the examples.
const list = document.getElementById("list");
if (list) {
  const [find, order, shown] = ["find", "order", "shown"].map((id) => document.getElementById(id));
  const examples = all(".example", list);
  const key = (example) => {
    const [what, system] = [order.value.split(":")[0], order.value.slice(4)];
    if (what === "wer") return -(JSON.parse(example.dataset.wer)[system] ?? -1);
    return Number(example.dataset[what === "seconds" ? "seconds" : "order"]);
  };
  const arrange = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const example of examples) example.hidden = !words.every((word) => example.dataset.search.includes(word));
    list.append(...[...examples].sort((left, right) => key(left) - key(right)));
    shown.textContent = `${examples.filter((example) => !example.hidden).length} of ${examples.length}`;
  };
  find.addEventListener("input", arrange);
  order.addEventListener("change", arrange);
}
