// Looks at the page in each frame, and leaves what it finds in the title, as JSON.

const channels = (colour) => {
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
  return [red, green, blue, alpha / 255];
};

const over = ([r, g, b, a], behind) => [r, g, b].map((c, i) => a * c + (1 - a) * behind[i]);

const behind = (element, view) => {
  if (!element) return [255, 255, 255];
  const colour = channels(view.getComputedStyle(element).backgroundColor);
  return colour[3] === 1 ? colour.slice(0, 3) : over(colour, behind(element.parentElement, view));
};

// Relative luminance, as WCAG 2 defines it.
const luminance = (colour) => {
  const [r, g, b] = colour.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};

const contrast = (element, view) => {
  const style = view.getComputedStyle(element);
  const ground = behind(element, view);
  const ink = over(channels(element.closest("svg") ? style.fill : style.color), ground);
  const [light, dark] = [luminance(ink), luminance(ground)].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
};

const named = (element) => `${element.tagName} ${element.textContent.trim().slice(0, 40)}`;

const look = (view) => {
  const page = view.document;
  page.querySelectorAll("details").forEach((details) => (details.open = true));
  const all = [...page.body.querySelectorAll("*")];
  const words = (element) => [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  const texts = all.filter((e) => words(e) && !/^style$/i.test(e.tagName));
  const scrolls = all.filter((e) => e.scrollWidth > e.clientWidth && view.getComputedStyle(e).overflowX === "auto");
  view.scrollTo(0, 0);
  const stops = [...page.querySelectorAll("a[href], summary, [tabindex='0']")];
  const unmarked = stops.filter((stop) => {
    stop.focus();
    return page.activeElement !== stop || view.getComputedStyle(stop).outlineStyle !== "solid";
  });
  const width = page.documentElement.clientWidth;
  const boxes = all.filter((e) => !e.closest(".scroll > *, svg *, .skip, pre"));
  return {
    wide: boxes.filter((e) => e.getBoundingClientRect().right > width + 1).map(named),
    background: channels(view.getComputedStyle(page.body).backgroundColor).slice(0, 3),
    texts: texts.length,
    faint: texts.filter((e) => contrast(e, view) < 4.5).map(named),
    // The right edge of the last column of the main table: the difference from the teacher.
    difference: page.querySelector(".results thead th:last-child").getBoundingClientRect().right - width,
    tiles: page.querySelector(".tiles").getBoundingClientRect().bottom + view.scrollY,
    scrolling: scrolls.length,
    unreachable: scrolls.filter((e) => e.tabIndex < 0).map(named),
    first: stops[0].textContent,
    unmarked: unmarked.map(named),
  };
};

onload = () => {
  document.title = JSON.stringify([...document.querySelectorAll("iframe")].map((f) => look(f.contentWindow)));
};
