// The field for a query as a combobox with a listbox: https://www.w3.org/WAI/ARIA/apg/patterns/combobox/
"use strict";
(() => {
  const input = document.querySelector("input[data-complete]");
  if (!input) return;
  const list = document.getElementById(`${input.id}-options`);
  const options = () => [...list.querySelectorAll("[role=option]")];
  let active = -1, asked = 0, waiting = 0, found;
  input.setAttribute("role", "combobox");
  input.setAttribute("aria-expanded", "false");
  input.setAttribute("aria-autocomplete", "list");
  input.setAttribute("aria-controls", list.id);

  const show = (open) => {
    list.hidden = !open;
    input.setAttribute("aria-expanded", String(open));
    if (!open) choose(-1);
  };
  const choose = (index) => {
    active = index;
    input.removeAttribute("aria-activedescendant");
    for (const [n, each] of options().entries()) {
      each.setAttribute("aria-selected", String(n === index));
      if (n !== index) continue;
      input.setAttribute("aria-activedescendant", each.id);
      each.scrollIntoView({ block: "nearest" });
    }
  };
  const option = ({ text, note }, index) => {
    const made = document.createElement("li");
    made.id = `${list.id}-${index}`;
    made.setAttribute("role", "option");
    made.setAttribute("aria-selected", "false");
    made.dataset.text = text;
    const code = document.createElement("code");
    code.textContent = text;
    made.append(code, note && ` ${note}`);
    return made;
  };
  const ask = async () => {
    const number = ++asked;
    const parameters = new URLSearchParams({ q: input.value, at: [...input.value.slice(0, input.selectionStart)].length });
    try {
      const response = await fetch(`${input.dataset.complete}?${parameters}`);
      if (number !== asked || !response.ok) return;
      found = await response.json();
      list.replaceChildren(...found.suggestions.map(option));
      choose(-1);
      show(found.suggestions.length > 0 && document.activeElement === input);
    } catch { show(false); }
  };
  const later = () => { clearTimeout(waiting); waiting = setTimeout(ask, 120); };
  const take = (chosen) => {
    const characters = [...input.value]; // positions count code points
    const goesOn = /[:.]$/.test(chosen); // to a value, or a field below
    const atEnd = found.end === characters.length;
    const before = characters.slice(0, found.start).join("") + chosen + (atEnd && !goesOn ? " " : "");
    input.value = before + characters.slice(found.end).join("");
    input.setSelectionRange(before.length, before.length);
    input.focus();
    if (goesOn) ask(); else show(false);
  };
  show(false);
  input.addEventListener("input", later);
  input.addEventListener("click", later);
  input.addEventListener("blur", () => { asked++; show(false); });
  input.addEventListener("keydown", (event) => {
    const all = options(), open = !list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) { ask(); return; }
      const step = event.key === "ArrowDown" ? 1 : -1;
      choose(active < 0 && step < 0 ? all.length - 1 : (active + step + all.length) % all.length);
    } else if (event.key === "Escape" && open) {
      event.preventDefault();
      show(false);
    } else if ((event.key === "Enter" || event.key === "Tab") && open && active >= 0) {
      event.preventDefault();
      take(all[active].dataset.text);
    }
  });
  // Before the field loses its focus.
  list.addEventListener("mousedown", (event) => {
    event.preventDefault();
    const chosen = event.target.closest("[role=option]");
    if (chosen) take(chosen.dataset.text);
  });
})();
