// Before anything is drawn: scripts run, and the theme is what the reader chose on this site, else the machine's.
"use strict";
document.documentElement.classList.add("js");
try {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch { /* storage may be switched off; then the machine's theme holds */ }
