"use strict";
const layers = [...document.querySelectorAll(".layer")];
const select = document.getElementById("layer");
function show(index) {
  layers.forEach((layer, i) => layer.classList.toggle("away", i !== index));
  document.getElementById("previous").disabled = index === 0;
  document.getElementById("next").disabled = index === layers.length - 1;
}
if (select) {
  const step = (by) => {
    select.selectedIndex += by;
    show(select.selectedIndex);
  };
  select.addEventListener("change", () => show(select.selectedIndex));
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  show(select.selectedIndex);
}
const differing = document.getElementById("differing");
if (differing) {
  const update = () => document.body.classList.toggle("only-differing", differing.checked);
  differing.addEventListener("change", update);
  update();
}
