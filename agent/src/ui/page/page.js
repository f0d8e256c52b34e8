// Asks the agent once a second while somebody looks, and shows what it says.

import { $, duration, el, list, rate, socket, spark, svg, text, whole } from './dom.js';
import { draw, shape } from './way.js';

const PERIOD = 1000;
const PATIENCE = 8000;
/** Values of the small curve. */
const HISTORY = 60;
/** Lines of the feed. */
const LINES = 60;
/** Maps that are always shown. */
const FULLEST = 5;

const state = {
  sort: 'rate',
  reverse: false,
  search: '',
  paused: false,
  /** {service, protocol, family}; the id is looked up, for it can become another's. */
  chosen: null,
  id: null,
  history: [],
  after: 0,
  feed: [],
};

async function ask(path, parameters = {}) {
  const answer = await fetch(`${path}?${new URLSearchParams(parameters)}`, { signal: AbortSignal.timeout(PATIENCE), cache: 'no-store' });
  const json = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(json.error), { status: answer.status });
  return json;
}

// The node.

const keyOf = (row) => `${row.service},${row.protocol},${row.family}`;
const hashOf = (row) => `#${encodeURI(keyOf(row))}`;
const isChosen = (row) => state.chosen !== null && keyOf(row) === keyOf(state.chosen);

function showNode(node) {
  const known = node.seconds >= 0.5;
  document.title = `${node.node} – Ferrogate`;
  text($('node'), node.node);
  const { source } = node;
  text($('source'), source ? `${source.origin}: ${source.state} for ${duration(source.since_seconds)}` : '');
  text($('version'), `Version ${node.version}, for ${duration(node.uptime_seconds ?? 0)}.`);
  for (const name of ['connections', 'translated', 'socket_calls', 'passed', 'refused']) text($(name), known ? rate(node[name]) : '–');
  $('refused-figure').classList.toggle('bad', known && node.refused > 0);
  if (known) {
    state.history = [...state.history, node.connections].slice(-HISTORY);
    spark($('spark'), state.history, HISTORY);
  }
  $('problems').hidden = node.problems.length === 0;
  list($('problems'), node.problems, (one) => one, (one) => el('li', {}, one), () => {});
  showServices(node, known);
  showReasons(node.drops, known);
  showRoom(node);
}

function serviceRow(row) {
  const [namespace, rest] = row.service.split('/');
  const name = el('a', { href: hashOf(row), 'data-key': 'link' }, el('span', { class: 'muted' }, `${namespace}/`), rest);
  const number = (classes) => el('td', { class: `number ${classes}` });
  return el('tr', {}, el('td', { title: row.service }, el('span', { class: 'name' }, name)), number('speed'), number(''), number('ends'));
}

function showServices(node, known) {
  const several = new Map();
  for (const row of node.services) several.set(row.service, (several.get(row.service) ?? 0) + 1);
  list($('rows'), node.services, keyOf, serviceRow, (tr, row) => {
    const [cell, speed, total, ends] = tr.children;
    const name = cell.firstChild;
    const link = name.firstChild;
    tr.classList.toggle('chosen', isChosen(row));
    tr.classList.toggle('empty', row.endpoints === 0);
    if (isChosen(row)) link.setAttribute('aria-current', 'true');
    else link.removeAttribute('aria-current');
    const more = [row.protocol === 'TCP' ? '' : row.protocol, several.get(row.service) > 1 || row.family === 'IPv6' ? row.family.replace('IP', '') : ''].filter(Boolean);
    list(name, [link, ...more], (one) => (one === link ? 'link' : one), (one) => el('span', { class: 'tag' }, one), () => {});
    text(speed, known ? rate(row.rate) : '–');
    speed.classList.toggle('busy', known && row.rate > 0);
    text(total, whole(row.connections));
    text(ends, `${row.endpoints} (${row.local})`);
  });
  const shown = node.services.length;
  const all = node.matching < node.total ? `${whole(node.matching)} of ${whole(node.total)} Service ports` : `${whole(node.total)} Service ports`;
  text($('count'), shown < node.matching ? `${all}, the first ${whole(shown)} shown` : all);
}

function showReasons(drops, known) {
  $('no-reasons').hidden = drops.length > 0;
  const make = (one) => el('li', {}, el('div', { class: 'first' }, el('span', { class: 'reason mono' }, one.reason), el('span', { class: 'counts' })), el('div', { class: 'muted small' }, one.description));
  list($('reasons'), drops, (one) => one.reason, make, (item, one) => {
    text(item.firstChild.lastChild, known && one.rate > 0 ? `${rate(one.rate)}/s, ${whole(one.count)}` : whole(one.count));
  });
}

function showRoom(node) {
  const maps = node.maps.filter((map) => map.used !== null && map.limit > 0).sort((a, b) => b.used / b.limit - a.used / a.limit || a.name.localeCompare(b.name));
  const make = (map) => el('li', { title: map.purpose }, el('div', { class: 'names' }, el('span', { class: 'mono' }, map.name), el('span', { class: 'muted' })),
    svg('svg', { class: 'bar', viewBox: '0 0 100 6', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, svg('rect', { height: 6, width: 0 })));
  const update = (item, map) => {
    const share = map.used / map.limit;
    text(item.firstChild.lastChild, `${whole(map.used)} of ${whole(map.limit)}, ${share > 0 && share < 0.005 ? '<1' : Math.round(share * 100)} %`);
    item.lastChild.firstChild.setAttribute('width', Math.max(map.used ? 1 : 0, share * 100));
    item.classList.toggle('full', share >= 0.9);
  };
  list($('maps'), maps.slice(0, FULLEST), (map) => map.name, make, update);
  list($('all-maps'), maps.slice(FULLEST), (map) => map.name, make, update);
  list($('edges'), node.edges, (edge) => edge.edge, (edge) => el('li', {}, el('b', {}, edge.edge), el('span')), (item, edge) => {
    text(item.lastChild, `${edge.on ? 'on' : 'off'}: ${edge.detail}`);
    item.classList.toggle('muted', !edge.on);
  });
}

// One Service.

let drawn = { shape: '', figures: () => {} };

function showService(view) {
  $('nothing').hidden = true;
  $('detail').hidden = false;
  text($('service-title'), view.service);
  const port = view.port;
  const policies = [port.external_policy === 'Local' ? 'external Local' : '', port.internal_policy === 'Local' ? 'internal Local' : '', port.restricted ? 'source ranges' : ''];
  const tags = [view.kind, port.protocol, port.family, ...policies].filter(Boolean);
  list($('kind'), tags, (tag) => tag, (tag) => el('span', { class: 'tag' }, tag), () => {});
  const width = Math.max(300, Math.floor($('way').clientWidth));
  const form = shape(view, width);
  if (form !== drawn.shape) drawn = { shape: form, figures: draw($('way'), view, width) };
  drawn.figures(view);
  const refusals = port.refusals.map((one) => `${one.reason} ${whole(one.count)} (${one.edge})`).join(', ');
  const notes = [...view.notes, ...port.refused, ...(refusals ? [`Refused so far: ${refusals}`] : [])];
  list($('notes'), notes, (note) => note, (note) => el('li', {}, note), () => {});
  showEndpoints(view);
  showFlows(view);
}

const cells = (count, numbers = []) => el('tr', {}, ...Array.from({ length: count }, (_, index) => el('td', numbers.includes(index) ? { class: 'number' } : {})));

function showEndpoints(view) {
  const { endpoints } = view.port;
  text($('endpoint-count'), endpoints.length < view.endpoints ? `${endpoints.length} of ${view.endpoints}` : endpoints.length);
  const make = (one) => {
    const row = cells(6, [5]);
    row.children[0].append(el('span', { class: 'dot' }), el('span', { class: 'mono' }, one.address));
    return row;
  };
  list($('endpoints'), endpoints, (one) => one.address, make, (row, one) => {
    row.firstChild.firstChild.className = `dot ${one.state}`;
    const [, pod, where, how, use, flows] = row.children;
    text(pod, one.pod ?? '');
    text(where, [one.node ?? '', one.local ? 'here' : '', one.zone ?? ''].filter(Boolean).join(', '));
    text(how, one.weight !== 1 && !one.gone ? `${one.state}, weight ${one.weight}` : one.state);
    text(use, one.verdict);
    text(flows, one.flows);
    row.classList.toggle('unused', one.verdict.startsWith('no'));
  });
}

function showFlows(view) {
  text($('flow-count'), view.flows.length ? `${view.flows.length}${view.more_flows ? ', the most recent; there are more' : ''}` : '');
  $('no-flows').hidden = view.flows.length > 0;
  $('flow-table').hidden = view.flows.length === 0;
  const make = () => {
    const row = cells(6, [5]);
    for (const cell of [...row.children].slice(0, 4)) cell.className = 'mono';
    return row;
  };
  list($('flows'), view.flows, (flow) => `${flow.client} ${flow.frontend} ${flow.protocol}`, make, (row, flow) => {
    const values = [flow.client, flow.frontend, flow.backend, flow.snat ?? '', [flow.state, ...flow.marks].join(', '), `${flow.idle_seconds} s`];
    values.forEach((value, index) => text(row.children[index], value));
  });
}

function noService(why) {
  drawn = { shape: '', figures: () => {} };
  $('detail').hidden = true;
  $('nothing').hidden = false;
  $('kind').replaceChildren();
  text($('service-title'), state.chosen ? state.chosen.service : 'No Service is chosen');
  text($('nothing'), why);
}

/** The id of what was chosen: the page's address knows its name. */
async function find(node) {
  const listed = node.services.find(isChosen);
  if (listed) return listed.id;
  const found = await ask('/api/node', { search: state.chosen.service, limit: 50 });
  return found.services.find(isChosen)?.id ?? null;
}

async function lookAtService(node) {
  if (!state.chosen && node.services.length && !location.hash.includes(',')) state.chosen = node.services[0];
  if (!state.chosen) return noService('Choose one from the table.');
  const chosen = state.chosen;
  const listed = node.services.find(isChosen);
  state.id = listed ? listed.id : (state.id ?? (await find(node)));
  if (state.id === null) return noService('There is no such Service port on this node now.');
  try {
    const view = await ask('/api/service', { id: state.id });
    if (chosen === state.chosen) showService(view);
  } catch (error) {
    if (error.status !== 404) throw error;
    state.id = null;
    noService('There is no such Service port on this node any more.');
  }
}

// The feed.

const sameAs = (event) => [event.reason, event.client, event.process?.replace(/\[.*/, ''), event.frontend, event.edge].join(' ');

function hear(events) {
  for (const event of events) {
    const same = sameAs(event);
    const last = state.feed[0];
    // One that tries again and again is one line.
    if (last && last.same === same) {
      last.times += 1;
      last.event = event;
    } else {
      state.feed.unshift({ same, times: 1, event, key: String(event.number) });
    }
  }
  state.feed.length = Math.min(state.feed.length, LINES);
}

function feedItem({ event }) {
  const item = el('li', { class: event.refused ? '' : 'begun' });
  item.append(el('div', { class: 'first' }, el('time'), el('span', { class: 'reason mono' }, event.reason), el('span', { class: 'times' })), el('div', { class: 'mono' }), el('div', { class: 'muted small' }, event.description));
  return item;
}

function who(event) {
  const client = event.client ? (event.client_port ? socket(event.client, event.client_port) : event.client) : '?';
  const place = event.interface ? `${event.edge}/${event.interface}` : event.edge;
  const way = `${place} ${event.protocol} ${client}${event.process ? ` ${event.process}` : ''} → ${event.frontend}`;
  return event.backend ? `${way} ⇒ ${event.backend}${event.source ? ` as ${event.source}` : ''}` : way;
}

function showFeed(told) {
  hear(told.events);
  state.after = told.next;
  const words = { starting: 'starts', telling: 'listening', waiting: 'waiting', failed: 'failed' };
  const lost = told.lost ? `, ${whole(told.lost)} more came too fast to be shown` : '';
  text($('feed-state'), `${words[told.state]}${told.why ? `: ${told.why}` : ''}${lost}`);
  $('quiet').hidden = state.feed.length > 0;
  list($('feed'), state.feed, (one) => one.key, feedItem, (item, one) => {
    const [first, second] = item.children;
    const [time, , times] = first.children;
    text(time, new Date(one.event.time).toLocaleTimeString('en-GB'));
    time.setAttribute('datetime', one.event.time);
    text(times, one.times > 1 ? `×${whole(one.times)}` : '');
    const service = one.event.service ? `  ${one.event.service}` : '';
    text(second, who(one.event) + service);
  });
}

async function lookAtFeed() {
  if (!$('listen').checked) return;
  const parameters = { after: state.after };
  if ($('begun').checked) parameters.new = 1;
  showFeed(await ask('/api/events', parameters));
}

// Once a second.

let timer = 0;
let asking = false;
let again = false;
let since = null;

function old(error) {
  since ??= new Date();
  const time = since.toLocaleTimeString('en-GB');
  $('old').hidden = false;
  text($('old'), `The agent does not answer since ${time}; all figures are from then. (${error.message})`);
}

async function look() {
  clearTimeout(timer);
  // Nobody looks: nothing is asked, and the agent does nothing.
  if (document.hidden || state.paused) return;
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  try {
    const parameters = { sort: state.sort, limit: 200 };
    if (state.reverse) parameters.reverse = 1;
    if (state.search) parameters.search = state.search;
    const node = await ask('/api/node', parameters);
    showNode(node);
    await Promise.all([lookAtService(node), lookAtFeed()]);
    since = null;
    $('old').hidden = true;
    document.body.dataset.looks = Number(document.body.dataset.looks ?? 0) + 1;
  } catch (error) {
    old(error);
  }
  asking = false;
  timer = setTimeout(look, again ? 0 : PERIOD);
  again = false;
}

// What a person does.

function choose() {
  const [service, protocol, family] = decodeURI(location.hash.slice(1)).split(',');
  if (!family) return;
  state.chosen = { service, protocol, family };
  state.id = null;
  look();
}

function order(by) {
  // The first look at a column is at its most telling end, which the agent knows.
  state.reverse = state.sort === by && !state.reverse;
  state.sort = by;
  showOrder();
  look();
}

function showOrder() {
  const falling = ['rate', 'total'].includes(state.sort) !== state.reverse;
  for (const heading of $('orders').children) {
    if (heading.dataset.sort === state.sort) heading.setAttribute('aria-sort', falling ? 'descending' : 'ascending');
    else heading.removeAttribute('aria-sort');
  }
}

for (const heading of $('orders').children) heading.firstChild.addEventListener('click', () => order(heading.dataset.sort));
$('search').addEventListener('input', () => {
  state.search = $('search').value.trim();
  look();
});
$('pause').addEventListener('click', () => {
  state.paused = !state.paused;
  $('pause').setAttribute('aria-pressed', state.paused);
  text($('pause'), state.paused ? 'Paused' : 'Pause');
  look();
});
for (const box of ['listen', 'begun']) {
  $(box).addEventListener('change', () => {
    if (!$('listen').checked) text($('feed-state'), 'not listening');
    look();
  });
}
$('rows').addEventListener('keydown', (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const links = [...$('rows').querySelectorAll('a')];
  links[links.indexOf(document.activeElement) + step]?.focus();
  event.preventDefault();
});
addEventListener('hashchange', choose);
document.addEventListener('visibilitychange', look);
let room = 0;
new ResizeObserver(([{ contentRect }]) => {
  if (contentRect.width !== room) look();
  room = contentRect.width;
}).observe($('way'));
showOrder();
choose();
look();
