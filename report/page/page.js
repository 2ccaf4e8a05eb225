"use strict";
// Marks carry their own words in aria-label: show them beside the pointer.
const tip = document.getElementById("tip");
function showTip(event) {
  const mark = event.target.closest("figure svg [aria-label]:not(svg)");
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.getAttribute("aria-label");
  tip.style.left = Math.max(8, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = Math.max(8, event.clientY - tip.offsetHeight - 12) + "px";
}
addEventListener("pointermove", showTip);
addEventListener("pointerdown", showTip);
addEventListener("scroll", () => { tip.hidden = true; }, true);
