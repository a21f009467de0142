// Colours are CSS variables of the page, so that charts follow it into dark mode and print.
for (const drawn of document.querySelectorAll(".drawn")) {
  const views = [];
  for (const place of drawn.querySelectorAll(".vega")) {
    const spec = JSON.parse(place.nextElementSibling.textContent);
    const options = { mode: "vega-lite", renderer: "svg", actions: false, tooltip: { theme: "custom" } };
    views.push((await vegaEmbed(place, spec, options)).view);
  }
  drawn.querySelector(".legend").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "false");
    const hidden = [...drawn.querySelectorAll(".legend [aria-pressed=false]")].map((b) => b.dataset.name);
    for (const view of views) view.signal("hidden", hidden).runAsync();
  });
}
