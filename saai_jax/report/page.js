// Sections become tabs (WAI-ARIA's tabs pattern). Without this script they stay sections, one below the other.
document.querySelectorAll(".tabs").forEach((group, n) => {
  const panels = Array.from(group.children);
  const list = document.createElement("div");
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", group.dataset.label);
  const tabs = panels.map((panel, i) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.id = `tab-${n}-${i}`;
    tab.textContent = panel.querySelector("h4").textContent;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tab.id);
    panel.tabIndex = 0;
    list.append(tab);
    return tab;
  });
  const select = (chosen, focus) => {
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === chosen));
      tab.tabIndex = i === chosen ? 0 : -1;
      panels[i].hidden = i !== chosen;
    });
    if (focus) tabs[chosen].focus();
  };
  tabs.forEach((tab, i) => {
    const last = tabs.length - 1;
    const next = { ArrowRight: i === last ? 0 : i + 1, ArrowLeft: i === 0 ? last : i - 1, Home: 0, End: last };
    tab.addEventListener("click", () => select(i, true));
    tab.addEventListener("keydown", (event) => {
      if (!(event.key in next) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      select(next[event.key], true);
    });
  });
  group.prepend(list);
  group.classList.add("tabbed");
  select(0, false);
});
