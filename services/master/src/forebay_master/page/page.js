"use strict";
// The page of a cluster: asks the master that served it every two seconds, and shows what it says. Text is only ever set
// as text.

const PERIOD_MS = 2000;
const SPAN_S = 3600;
const SPAN_LEAST_S = 600;
const SOURCES = [
  ["local", "opened in place"], ["mem", "memory"], ["ssd", "disk"], ["peer", "another worker"], ["ufs", "under store"],
];
const SVG = "http://www.w3.org/2000/svg";

const at = (id) => document.getElementById(id);

function made(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${unit && count < 10 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

const percent = (share) => `${(100 * share).toFixed(share < 0.1 && share > 0 ? 1 : 0)} %`;

function bar(share, kind) {
  const outer = made("div", undefined, "bar"), inner = made("i", undefined, kind);
  inner.style.width = `${Math.min(100, 100 * share)}%`;
  outer.append(inner);
  return outer;
}

function card(worker) {
  const element = made("div", undefined, worker.slow_because.length ? "card ill" : "card");
  element.append(made("b", worker.member.member_id), made("small", `${worker.member.tcp} · ${worker.member.state}`));
  for (const tier of worker.tiers) {
    const share = tier.capacity_bytes ? tier.used_bytes / tier.capacity_bytes : 0;
    const text = `${tier.tier} ${bytes(tier.used_bytes)} of ${bytes(tier.capacity_bytes)} (${percent(share)})`;
    element.append(made("div", tier.in_service ? text : `${text}, out of service`));
    element.append(bar(share, tier.in_service ? tier.tier : "off"));
  }
  element.append(made("small", `weight ${worker.serving_weight.toFixed(2)} · ${worker.reads_in_flight} reads`));
  return element;
}

function row(...cells) {
  const element = made("tr");
  for (const cell of cells) {
    const td = made("td");
    td.append(cell);
    element.append(td);
  }
  return element;
}

function fill(id, elements, none) {
  at(id).replaceChildren(...(elements.length ? elements : [nothing(id, none)]));
}

function nothing(id, text) {
  if (at(id).tagName !== "TBODY") return made(at(id).tagName === "UL" ? "li" : "p", text, "none");
  const line = row(made("span", text, "none"));
  line.firstChild.colSpan = 9;
  return line;
}

function sum(samples) {
  const out = Object.fromEntries(SOURCES.map(([name]) => [name, 0]));
  for (const sample of samples) for (const [name] of SOURCES) out[name] += sample[name];
  return out;
}

function draw(samples, now) {
  const shapes = [];
  const span = Math.max(SPAN_LEAST_S, samples.length ? now - samples[0].at_s + samples[0].span_s : 0);
  for (const sample of samples) {
    const all = SOURCES.reduce((total, [name]) => total + sample[name], 0);
    if (!all) continue;
    const x = 720 * (1 - (now - sample.at_s + sample.span_s) / span), width = Math.max(1, 720 * sample.span_s / span);
    let y = 160;
    for (const [name] of SOURCES) {
      const height = 160 * sample[name] / all;
      if (!height) continue;
      y -= height;
      const rect = document.createElementNS(SVG, "rect");
      for (const [key, value] of Object.entries({ x, y, width, height, class: name })) rect.setAttribute(key, value);
      shapes.push(rect);
    }
  }
  at("reads").replaceChildren(...shapes);
  const sums = sum(samples), all = Object.values(sums).reduce((a, b) => a + b, 0);
  at("ratio").textContent = all
    ? `${all} reads; ${percent(1 - sums.ufs / all)} found their bytes in the cluster`
    : "no reads in this time";
  at("legend").replaceChildren(...SOURCES.map(([name, text]) => {
    const entry = made("span");
    entry.append(made("i", undefined, name), `${text} ${all ? percent(sums[name] / all) : ""}`);
    return entry;
  }));
}

function show(seen) {
  at("cluster").textContent = `${seen.cluster_id} · ${seen.workers.length} workers · map epoch ${seen.map_epoch}`;
  fill("workers", seen.workers.map(card), "There is no worker.");
  draw(seen.samples.filter((sample) => seen.at_s - sample.at_s < SPAN_S), seen.at_s);
  fill("mounts", seen.mounts.map((mount) => {
    const room = made("div", percent(mount.room_share));
    room.append(bar(mount.room_share, "MEM"));
    return row(mount.path, mount.source, String(mount.names), bytes(mount.held_bytes), room);
  }), "Nothing is mounted.");
  const masters = seen.members.filter((member) => member.role === "master");
  fill("masters", masters.map((member) => row(member.member_id, member.tcp, member.state)), "There is no master.");
  const slow = seen.workers.filter((worker) => worker.slow_because.length);
  fill("slow", slow.map((worker) => made("li", `${worker.member.member_id}: ${worker.slow_because.join("; ")}`)),
    "All workers are well.");
  fill("troubles", seen.troubles.map((trouble) => row(
    new Date(1000 * trouble.at_s).toLocaleTimeString(), trouble.member_id,
    made("span", trouble.reason ? `${trouble.event}: ${trouble.reason}` : trouble.event, trouble.level),
  )), "Nothing went wrong lately.");
}

function showLoads(loads) {
  at("loads-part").hidden = !loads.length;
  fill("loads", loads.map((load) => {
    const total = load.plan ? load.plan.bytes : 0, share = total ? load.done_bytes / total : 0;
    const done = made("div", `${bytes(load.done_bytes)} of ${bytes(total)}`);
    done.append(bar(share, "MEM"));
    return row(load.request.path, load.message ? `${load.state}: ${load.message}` : load.state, done);
  }), "No load.");
}

let hasLoads = true;

async function look() {
  try {
    const reply = await fetch("/v1/overview", { signal: AbortSignal.timeout(5000) });
    if (!reply.ok) throw new Error(`status ${reply.status}`);
    show(await reply.json());
    at("state").textContent = `live · ${new Date().toLocaleTimeString()}`;
    at("state").className = "good";
    if (hasLoads) {
      const loads = await fetch("/v1/loads", { signal: AbortSignal.timeout(5000) });
      hasLoads = loads.status !== 404;
      if (loads.ok) showLoads((await loads.json()).loads || []);
    }
  } catch (error) {
    at("state").textContent = `the master does not answer (${error.message})`;
    at("state").className = "bad";
  }
  setTimeout(look, PERIOD_MS);
}

look();
