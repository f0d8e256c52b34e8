// Elements, lists that keep their place, and numbers.

const SVG = 'http://www.w3.org/2000/svg';

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; `class` and `aria-...` are attributes. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Sets a text, without touching what is right already. */
export function text(element, value) {
  const string = String(value);
  if (element.textContent !== string) element.textContent = string;
}

/**
 * Makes the children of a list those of `items`, in that order: what is there already stays the same element, and keeps the
 * keyboard's focus wherever it goes.
 */
export function list(parent, items, key, make, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const focus = parent.contains(document.activeElement) ? document.activeElement : null;
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let child = old.get(name);
    if (child) {
      old.delete(name);
    } else {
      child = make(item);
      child.dataset.key = name;
    }
    if (child === place) {
      place = place.nextElementSibling;
    } else {
      parent.insertBefore(child, place);
    }
    update(child, item);
  }
  for (const gone of old.values()) gone.remove();
  if (focus && focus !== document.activeElement && focus.isConnected) focus.focus({ preventScroll: true });
}

/** As people read it: 0, 0.4, 12, 3,400. */
export function rate(value) {
  if (value > 0 && value < 0.05) return '<0.1';
  return value < 10 ? String(Math.round(value * 10) / 10) : whole(Math.round(value));
}

export const whole = (value) => value.toLocaleString('en-US');

export function duration(seconds) {
  const days = Math.floor(seconds / 86400);
  const [hours, minutes] = [Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

/** An address and a port. */
export const socket = (ip, port) => (ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`);

/** Draws the last values as a line. */
export function spark(element, values, room) {
  const [width, height] = [120, 32];
  const top = Math.max(1, ...values);
  const at = (value, index) =>
    `${(width * (index + room - values.length) / (room - 1)).toFixed(1)},${(height - 2 - (height - 6) * value / top).toFixed(1)}`;
  const points = values.map(at);
  const [area, line] = element.children;
  const path = points.length > 1 ? `M${points.join('L')}` : '';
  line.setAttribute('d', path);
  area.setAttribute('d', path && `${path}L${width},${height}L${points[0].split(',')[0]},${height}Z`);
}
