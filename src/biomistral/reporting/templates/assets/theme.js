// Before anything is drawn: the theme that the reader chose on this site, else the machine's.
"use strict";
try {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch { /* storage may be switched off; then the machine's theme holds */ }
