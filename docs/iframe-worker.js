// Browsers start no workers from pages that were opened from the disk, and the search of this site is one. There its script runs in a
// hidden frame instead, which gets and sends messages as a worker does.
if (location.protocol === "file:") {
  const load = (page, url) => new Promise((done, failed) => {
    const script = page.createElement("script")
    Object.assign(script, { src: url, onload: done, onerror: failed })
    page.body.append(script)
  })
  window.IFrameWorker = class extends EventTarget {  // the search looks for this name to find its own folder
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.inside = frame.contentWindow
      this.inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.inside.importScripts = (...urls) => Promise.all(urls.map(one => load(this.inside.document, one)))
      this.ready = load(this.inside.document, new URL(url, document.baseURI).href)
    }
    set onmessage(handler) { this.addEventListener("message", handler) }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {}
  }
  window.Worker = window.IFrameWorker
}
