// The theme that was chosen, before anything is painted. Not a module: it has to run first.
(() => {
  let theme = null;
  try {
    theme = JSON.parse(localStorage.getItem("bitforge.settings") || "{}").theme;
  } catch {
    // No storage, or not ours: the system's theme.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
