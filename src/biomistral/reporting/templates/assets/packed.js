// Reads the site's data files: scripts that call siteData(name, value), loaded once each, as pages from disk may load no others.
"use strict";

const packed = (() => {
  const takers = new Map();
  const asked = new Map();
  window.siteData = (name, value) => takers.get(name)?.(value);

  function load(root, name) {
    if (!asked.has(name)) {
      asked.set(name, new Promise((take, refuse) => {
        takers.set(name, take);
        const script = document.createElement("script");
        script.src = root + name;
        script.onerror = () => { asked.delete(name); refuse(new Error(`${name} could not be loaded`)); };
        document.head.append(script);
      }));
    }
    return asked.get(name);
  }

  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

  // Small numbers, 8 / bits of them in a byte, the first in its lowest bits.
  function unsqueezed(text, bits, length) {
    const [source, per, mask] = [bytes(text), 8 / bits, (1 << bits) - 1];
    return Uint8Array.from({ length }, (_, index) => (source[Math.floor(index / per)] >> (bits * (index % per))) & mask);
  }

  // What the reader chose stands behind the # of the address, so that it can be kept and shared.
  const state = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const keep = (values) => history.replaceState(null, "", `#${new URLSearchParams(values)}`);

  // An element with attributes, and children that are elements or text: never markup.
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function options(select, values, chosen) {
    select.replaceChildren(...values.map(([value, text]) => {
      const option = make("option", { value }, text);
      option.selected = String(value) === String(chosen);
      return option;
    }));
  }

  return { load, bytes, unsqueezed, state, keep, make, options };
})();
