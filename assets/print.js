// Paper is white: print in the light scheme, whatever the screen shows.
(() => {
  const page = document.documentElement.dataset;
  let before;
  addEventListener("beforeprint", () => { before = page.theme; page.theme = "light"; });
  addEventListener("afterprint", () => { page.theme = before; });
})();
