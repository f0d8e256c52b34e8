// The way of a connection: client, address, Service, endpoint.

import { rate, socket, svg, text, whole } from './dom.js';

/** Endpoints that are drawn; the table has all. */
const MOST = 8;
/** Below this width the drawing goes downwards. */
const NARROW = 660;
/** Seconds since its last packet, for a flow that is called busy. */
const BUSY = 1;

/** A line of a box, cut to what fits; the whole of it is its title. */
function line(x, y, words, room, classes = '') {
  const width = classes.includes('mono') ? 7.3 : classes.includes('strong') ? 7.9 : 6.8;
  const most = Math.max(4, Math.floor(room / width));
  const cut = words.length > most ? `${words.slice(0, Math.ceil(most * 0.6) - 1)}…${words.slice(-Math.floor(most * 0.4))}` : words;
  const element = svg('text', { x, y, class: classes }, cut);
  if (cut !== words) element.append(svg('title', {}, words));
  return element;
}

/** What a way's box says: two lines, or three where it leads nowhere. */
function wayLines(way) {
  const where = way.addresses.map((ip) => socket(ip, way.port));
  const more = where.length > 1 ? ` +${where.length - 1}` : '';
  const edge = way.edge ? `${way.edge} edge` : 'no edge';
  return [`${way.kind}, ${edge}`, (where[0] ?? `:${way.port}`) + more, way.works ? '' : way.outcome];
}

function endpointLines(endpoint) {
  const where = endpoint.node ? (endpoint.local ? `${endpoint.node}, here` : endpoint.node) : endpoint.local ? 'here' : '';
  const name = endpoint.pod ? endpoint.pod.split('/').pop() : '';
  return [endpoint.address, [name, where].filter(Boolean).join(' on ') || endpoint.state];
}

const used = (endpoint) => endpoint.cluster || endpoint.local_set === true;

const isBusy = (flow) => flow.idle_seconds <= BUSY;

/**
 * Which ways are used now. Connections are counted by Service and not by address, so this is told from flows of packets; the
 * socket edge has none, and gets what they leave of the rate.
 */
function busyWays(now) {
  const busy = now.flows.filter(isBusy);
  const asked = new Set(busy.map((flow) => flow.frontend));
  const rest = !now.more_flows && now.rate > 0 && busy.length < now.rate / 2;
  return now.port.ways.map((way) => way.works && (way.edge === 'socket' ? rest : way.addresses.some((ip) => asked.has(socket(ip, way.port)))));
}

/** Everything but the figures: while this stays, only figures are written anew. */
export function shape(view, width) {
  const { ways, endpoints, algorithm, affinity_seconds: affinity } = view.port;
  const ends = endpoints.slice(0, MOST).map((one) => [one.address, one.state, used(one), one.pod, one.node]);
  return JSON.stringify([width, view.service, ways, ends, endpoints.length, algorithm, affinity], (name, value) => (name === 'counted' ? 0 : value));
}

/** A sentence for those who do not see it. */
function spoken(view) {
  const ways = view.port.ways.map((way) => `${way.client} by ${wayLines(way).filter(Boolean).join(' ')}`);
  const ends = view.port.endpoints.filter(used).length;
  return `${view.service}: ${ways.join('; ')}. ${ends} of ${view.port.endpoints.length} endpoints are used.`;
}

/** Where everything goes: boxes {x, y, w, h}, links between them. */
function across(view, width) {
  const ends = view.port.endpoints.slice(0, MOST);
  const clients = [...new Set(view.port.ways.map((way) => way.client))];
  const wayHeight = (way) => (way.works ? 46 : 62);
  const tall = (heights, gap) => heights.reduce((sum, one) => sum + one + gap, -gap);
  const heights = view.port.ways.map(wayHeight);
  const more = view.port.endpoints.length > MOST ? 20 : 0;
  const height = Math.max(120, tall(heights, 12), tall(ends.map(() => 42), 8) + more) + 8;
  const column = (x, w, sizes, gap, room = height) => {
    let y = Math.max(4, (room - tall(sizes, gap)) / 2);
    return sizes.map((h) => {
      const box = { x, y, w, h };
      y += h + gap;
      return box;
    });
  };
  const [a, b, c, d] = [Math.max(118, width * 0.14), Math.max(192, width * 0.24), Math.max(128, width * 0.17), Math.max(182, width * 0.25)];
  const gap = (width - a - b - c - d - 4) / 3;
  const ways = column(2 + a + gap, b, heights, 12);
  // A client is beside its ways.
  const boxes = clients.map((client) => {
    const its = ways.filter((_, index) => view.port.ways[index].client === client);
    const middle = (its[0].y + its.at(-1).y + its.at(-1).h) / 2;
    return { x: 2, y: middle - 18, w: a, h: 36 };
  });
  for (let index = 1; index < boxes.length; index += 1) boxes[index].y = Math.max(boxes[index].y, boxes[index - 1].y + 42);
  const service = { x: 2 + a + gap + b + gap, y: height / 2 - 44, w: c, h: 88 };
  const endpoints = column(width - d - 2, d, ends.map(() => 42), 8, height - more);
  const right = (box) => [box.x + box.w, box.y + box.h / 2];
  const left = (box) => [box.x, box.y + box.h / 2];
  const link = (from, to) => {
    const [[x1, y1], [x2, y2]] = [right(from), left(to)];
    const bend = (x2 - x1) / 2;
    return `M${x1},${y1}C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`;
  };
  return { height, clients: boxes, names: clients, ways, service, endpoints, link, wayLink: link };
}

/** The same downwards, for small screens. */
function down(view, width) {
  const ends = view.port.endpoints.slice(0, MOST);
  const rail = 22;
  let y = 4;
  const next = (h, gap, x = rail, w = width - rail - 2) => {
    const box = { x, y, w, h };
    y += h + gap;
    return box;
  };
  const ways = view.port.ways.map((way) => next(way.works ? 62 : 78, 10));
  const service = next(76, 12, 2, width - 4);
  const endpoints = ends.map(() => next(42, 8));
  const more = view.port.endpoints.length > MOST ? 20 : 0;
  const elbow = (from, to) => `M10,${from}V${to - 8}Q10,${to} 18,${to}H${rail}`;
  return {
    height: y + more,
    clients: [],
    names: [],
    ways,
    service,
    endpoints,
    link: (from, to) => elbow(from.y + from.h, to.y + to.h / 2),
    wayLink: (from, to) => `M${rail},${from.y + from.h / 2}H18Q10,${from.y + from.h / 2} 10,${from.y + from.h / 2 + 8}V${to.y}`,
  };
}

/** Draws anew. Returns what writes the figures into the drawing. */
export function draw(figure, view, width) {
  const narrow = width < NARROW;
  const plan = narrow ? down(view, width) : across(view, width);
  const root = svg('svg', { viewBox: `0 0 ${width} ${plan.height}`, role: 'img', 'aria-label': spoken(view) });
  const links = svg('g');
  const boxes = svg('g');
  root.append(links, boxes);
  const pulses = [];
  const connect = (d, works, flows) => {
    links.append(svg('path', { d, class: works ? 'link' : 'link cut' }));
    if (!works) return;
    const pulse = svg('path', { d, class: 'pulse' });
    links.append(pulse);
    pulses.push([pulse, flows]);
  };
  const box = (at, classes) => boxes.append(svg('rect', { x: at.x, y: at.y, width: at.w, height: at.h, rx: 9, class: classes }));
  const busy = (place) => (now, ways) => ways[place];

  plan.clients.forEach((at, index) => {
    const its = view.port.ways.map((way, at) => [way, at]).filter(([way]) => way.client === plan.names[index]);
    its.forEach(([way, place]) => connect(plan.link(at, plan.ways[place]), way.works, busy(place)));
    box(at, 'box');
    boxes.append(line(at.x + 10, at.y + 22, plan.names[index], at.w - 12));
  });
  view.port.ways.forEach((way, index) => {
    const at = plan.ways[index];
    connect(plan.wayLink(at, plan.service), way.works, busy(index));
    box(at, way.works ? 'box' : 'box dead');
    const [first, second, third] = wayLines(way);
    let y = at.y + 18;
    const lines = [[first, 'quiet'], [second, 'mono'], [third, 'bad']];
    if (narrow) lines.unshift([`from ${way.client}`, '']);
    for (const [words, classes] of lines.filter(([words]) => words)) {
      boxes.append(line(at.x + 10, y, words, at.w - 18, classes));
      y += 17;
    }
  });

  const { service } = plan;
  const ready = view.port.endpoints.some(used);
  box(service, ready ? 'gate' : 'box dead');
  const [left, room] = [service.x + 12, service.w - 20];
  const speed = svg('text', { x: left, y: service.y + (narrow ? 48 : 46), class: 'big' });
  const rule = [view.port.algorithm, view.port.affinity_seconds ? 'affinity' : ''].filter(Boolean).join(', ');
  boxes.append(line(left, service.y + 20, view.service.split('/').pop(), room, 'strong'), speed, line(left, service.y + (narrow ? 66 : 68), rule, room, 'quiet'));

  const counts = [];
  view.port.endpoints.slice(0, MOST).forEach((endpoint, index) => {
    const at = plan.endpoints[index];
    const works = used(endpoint);
    connect(plan.link(service, at), works || endpoint.flows > 0, (now) => (works && now.rate > 0) || now.flows.some((flow) => flow.backend === endpoint.address && isBusy(flow)));
    const group = works ? 'box' : 'box off';
    box(at, group);
    const [first, second] = endpointLines(endpoint);
    const count = svg('text', { x: at.x + at.w - 8, y: at.y + 35, class: 'quiet', 'text-anchor': 'end' });
    boxes.append(line(at.x + 10, at.y + 18, first, at.w - 16, 'mono'), line(at.x + 10, at.y + 35, second, at.w - 84, 'quiet'), count);
    counts.push(count);
  });
  if (!view.port.endpoints.length) {
    boxes.append(line(service.x, service.y + service.h + 20, 'no endpoint: refused at once', 260, 'bad'));
  } else if (view.port.endpoints.length > MOST) {
    const last = plan.endpoints.at(-1);
    boxes.append(line(last.x + 10, last.y + last.h + 16, `and ${whole(view.port.endpoints.length - MOST)} more, below`, last.w, 'quiet'));
  }
  figure.replaceChildren(root);

  return (now) => {
    text(speed, `${rate(now.rate)}/s`);
    const ways = busyWays(now);
    for (const [pulse, flows] of pulses) pulse.classList.toggle('on', flows(now, ways));
    counts.forEach((count, index) => {
      const flows = now.port.endpoints[index]?.flows ?? 0;
      text(count, flows ? `${whole(flows)} flow${flows === 1 ? '' : 's'}` : '');
    });
  };
}
