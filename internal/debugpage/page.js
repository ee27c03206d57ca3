"use strict";
// Everything is put into the page as text: nothing here makes HTML of what comes.

const HISTORY = 120; // samples of a line, one a second
const histories = new Map();
const previous = new Map();
let paused = false;
let timer = 0;

function element(tag, className, text) {
	const e = document.createElement(tag);
	if (className) e.className = className;
	if (text !== undefined) e.textContent = text;
	return e;
}

function setText(e, text) {
	text = String(text);
	if (e.textContent !== text) e.textContent = text;
}

function setClass(e, name) {
	if (e.className !== name) e.className = name;
}

// keyed keeps one child for each item, in the items' order: what is under the pointer stays.
function keyed(parent, items, keyOf, make, update) {
	const had = new Map();
	for (const child of parent.children) had.set(child.pypoolKey, child);
	let at = parent.firstElementChild;
	for (const item of items) {
		const key = keyOf(item);
		let child = had.get(key);
		if (child) {
			had.delete(key);
		} else {
			child = make(item);
			child.pypoolKey = key;
		}
		if (child === at) at = at.nextElementSibling;
		else parent.insertBefore(child, at);
		update(child, item);
	}
	for (const child of had.values()) child.remove();
}

function count(n) {
	return n >= 1e6 ? (n / 1e6).toFixed(n >= 1e7 ? 0 : 1) + " M" : n >= 1e4 ? (n / 1e3).toFixed(n >= 1e5 ? 0 : 1) + " k" : String(n);
}

function millis(ms) {
	if (ms >= 60000) return span(ms);
	if (ms >= 1000) return (ms / 1000).toFixed(ms >= 10000 ? 0 : 1) + " s";
	if (ms >= 1) return ms.toFixed(ms >= 100 ? 0 : 1) + " ms";
	return (ms * 1000).toFixed(0) + " µs";
}

function quantile(latency, q) {
	return latency.count ? millis(latency[q + "_ms"]) : "–";
}

function span(ms) {
	const s = Math.floor(ms / 1000);
	if (s < 60) return s + " s";
	if (s < 3600) return Math.floor(s / 60) + " min";
	if (s < 86400) return Math.floor(s / 3600) + " h " + Math.floor((s % 3600) / 60) + " min";
	return Math.floor(s / 86400) + " d " + Math.floor((s % 86400) / 3600) + " h";
}

function bytes(n) {
	if (!n) return "";
	return n >= 1 << 30 ? (n / (1 << 30)).toFixed(1) + " GiB" : (n / (1 << 20)).toFixed(0) + " MiB";
}

function percent(part) {
	if (part > 0 && part < 0.0005) return "< 0.1 %";
	return (100 * part).toFixed(part > 0 && part < 0.1 ? 1 : 0) + " %";
}

function table(columns) {
	const box = element("div", "scroll");
	const t = box.appendChild(element("table"));
	const head = t.appendChild(element("thead")).appendChild(element("tr"));
	for (const c of columns) {
		const th = head.appendChild(element("th", c.kind || "", c.name));
		th.scope = "col";
	}
	const body = t.appendChild(element("tbody"));
	return {
		box,
		update(items, keyOf) {
			keyed(body, items, keyOf, (item) => {
				const row = element("tr");
				for (const c of columns) {
					const cell = row.appendChild(element("td", c.kind || ""));
					if (c.make) c.make(cell, item);
				}
				return row;
			}, (row, item) => columns.forEach((c, i) => {
				if (c.text) setText(row.children[i], c.text(item));
				if (c.update) c.update(row.children[i], item);
			}));
		},
	};
}

function card(title, className) {
	const box = element("div", "card " + (className || ""));
	box.appendChild(element("h3", "", title));
	return box;
}

function tile(name, line) {
	const box = element("div", "card tile");
	box.appendChild(element("div", "name", name));
	const value = box.appendChild(element("div", "value"));
	const more = box.appendChild(element("div", "more"));
	let poly = null;
	if (line) {
		const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
		svg.setAttribute("viewBox", "0 0 " + (HISTORY - 1) + " 28");
		svg.setAttribute("preserveAspectRatio", "none");
		svg.setAttribute("aria-hidden", "true");
		poly = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
		svg.appendChild(poly);
		box.appendChild(svg);
	}
	return {
		box,
		update(text, detail, sample) {
			setText(value, text);
			setText(more, detail);
			if (!poly) return;
			if (!histories.has(poly)) histories.set(poly, []);
			const samples = histories.get(poly);
			samples.push(sample);
			if (samples.length > HISTORY) samples.shift();
			const top = Math.max(...samples, 1e-9);
			poly.setAttribute("points", samples.map((s, i) => (HISTORY - samples.length + i) + "," + (27 - 26 * s / top).toFixed(1)).join(" "));
		},
	};
}

function running(w) {
	return (w.running || []).map((r) => (r.program || r.command || "?") + (r.session ? " [" + r.session + "]" : "") + " for " + millis(r.for_ms)).join(", ");
}

function stacksOf(index, worker) {
	const dialog = document.getElementById("dialog");
	const text = document.getElementById("dialog-text");
	const ask = async () => {
		document.getElementById("dialog-title").textContent = "Stacks of " + worker;
		text.textContent = "asking …";
		try {
			const response = await fetch("?pool=" + index + "&stacks=" + encodeURIComponent(worker), { headers: { Accept: "application/json" } });
			const answer = await response.json();
			text.textContent = answer.stacks || answer.error || "nothing came";
		} catch (error) {
			text.textContent = "nothing came: " + error;
		}
	};
	document.getElementById("again").onclick = ask;
	if (!dialog.open) dialog.showModal();
	ask();
}

const number = (name, text, kind) => ({ name, kind: "number" + (kind ? " " + kind : ""), text });

function poolSection(index) {
	const section = element("section");
	section.id = "pool-" + index;
	const title = section.appendChild(element("div", "title"));
	const name = title.appendChild(element("h2"));
	const badge = title.appendChild(element("span"));
	const facts = title.appendChild(element("span", "facts"));
	const notices = section.appendChild(element("div", "notices"));
	const tiles = section.appendChild(element("div", "tiles"));
	const busy = tile("Workers busy", true), rate = tile("Calls a second", true), waiting = tile("Waiting callers", true);
	const run = tile("Run, median"), wait = tile("Wait for a worker, 95 %"), failing = tile("Failed by infrastructure");
	for (const t of [busy, rate, waiting, run, wait, failing]) tiles.appendChild(t.box);

	const workers = section.appendChild(card("Workers", "wide"));
	const legend = workers.appendChild(element("div", "legend"));
	const cells = workers.appendChild(element("div", "cells"));
	const workerTable = table([
		{ name: "Worker", text: (w) => w.id + (w.overflow ? " (overflow)" : "") },
		number("Slot", (w) => w.slot, "optional"),
		{
			name: "State", text: (w) => w.state + (w.retired ? ", to be replaced" : ""),
			update: (cell, w) => { if (cell.title !== (w.retired || "")) cell.title = w.retired || ""; },
		},
		{ name: "Runs", kind: "text", text: running },
		number("Calls", (w) => count(w.calls)),
		number("Errors", (w) => count(w.errors)),
		number("Memory", (w) => bytes(w.rss_bytes)),
		number("Age", (w) => span(w.age_ms)),
		number("PID", (w) => w.pid, "optional"),
		{ name: "Python", kind: "optional", text: (w) => w.python, update: (cell, w) => { if (cell.title !== w.interpreter) cell.title = w.interpreter; } },
		{
			name: "", make: (cell, w) => {
				const button = cell.appendChild(element("button", "stacks", "Stacks"));
				button.type = "button";
				button.setAttribute("aria-label", "Stacks of " + w.id);
				button.onclick = () => stacksOf(index, w.id);
			}, update: (cell, w) => { cell.firstChild.hidden = !w.able; },
		},
	]);
	workers.appendChild(workerTable.box);
	const noWorkers = workers.appendChild(element("p", "empty", "There is no process."));

	const commands = section.appendChild(card("Commands", "wide"));
	const commandTable = table([
		{ name: "Command", kind: "text", text: (c) => c.name || "(not registered)" },
		number("Calls", (c) => count(c.started)),
		number("Running", (c) => count(c.in_flight)),
		number("Failed", (c) => count(c.failed)),
		number("Run p50", (c) => quantile(c.run, "p50")),
		number("p95", (c) => quantile(c.run, "p95")),
		number("max", (c) => quantile(c.run, "max"), "optional"),
		number("Wait p95", (c) => quantile(c.wait, "p95")),
		{ name: "Errors", kind: "text optional", text: (c) => c.by_type.map((e) => e.type + " " + count(e.count)).join(", ") },
	]);
	commands.appendChild(commandTable.box);

	const two = section.appendChild(element("div", "two"));
	const latency = two.appendChild(card("Latency since the start"));
	const latencyTable = table([
		{ name: "", text: (l) => l.name },
		...["p50", "p95", "p99", "max"].map((q) => number(q, (l) => l.text ? l.text[q] : quantile(l, q))),
	]);
	latency.appendChild(latencyTable.box);
	const errors = two.appendChild(card("Failed calls"));
	const errorTable = table([
		{ name: "Error", text: (e) => e.type },
		number("Calls", (e) => count(e.count)),
		number("Share", (e) => percent(e.share)),
	]);
	errors.appendChild(errorTable.box);
	const noErrors = errors.appendChild(element("p", "empty", "None."));

	const circuits = section.appendChild(card("Circuits", "wide"));
	const circuitTable = table([
		{ name: "Circuit", kind: "text", text: (c) => c.command || "the pool's own" },
		{ name: "State", update: (cell, c) => { setText(cell, c.state); setClass(cell, ["closed", "open", "half-open"].includes(c.state) ? c.state : ""); } },
		number("Tried again in", (c) => c.retry_in_ms ? millis(c.retry_in_ms) : "", "optional"),
		{ name: "Cause", kind: "text", text: (c) => c.cause || "" },
	]);
	circuits.appendChild(circuitTable.box);

	const sessions = section.appendChild(element("details", "card wide"));
	const sessionTitle = sessions.appendChild(element("summary")).appendChild(element("h3"));
	const sessionTable = table([
		{ name: "Session", kind: "text", text: (s) => s.id },
		number("Calls", (s) => count(s.operations)),
		number("Errors", (s) => count(s.errors)),
		number("Last used", (s) => span(s.idle_ms) + " ago"),
		number("Age", (s) => span(s.age_ms), "optional"),
	]);
	sessions.appendChild(sessionTable.box);

	section.pypoolUpdate = (p, at) => {
		setText(name, p.name);
		setClass(badge, "badge " + (["serving", "degraded", "unavailable"].includes(p.state) ? p.state : ""));
		setText(badge, p.state);
		setText(facts, "size " + p.size + (p.overflow ? " + " + p.overflow : "") + " · up " + span(p.uptime_ms) + " · " + count(p.workers_started) + " workers started, " + count(p.recycled) + " recycled" + (p.retired ? ", " + count(p.retired) + " by their own request" : ""));
		keyed(notices, noticesOf(p), (n) => n.text, (n) => element("p", "notice" + (n.bad ? " bad" : ""), n.text), () => {});

		const last = previous.get(index);
		const seconds = last ? (at - last.at) / 1000 : 0;
		const ended = p.calls.succeeded + p.calls.failed;
		const perSecond = seconds > 0 ? Math.max(0, ended - last.ended) / seconds : 0;
		previous.set(index, { at, ended });
		busy.update(p.busy + " of " + p.workers, [p.starting && p.starting + " starting", p.stopping && p.stopping + " stopping"].filter(Boolean).join(", "), p.busy);
		rate.update(perSecond >= 10 || perSecond === 0 ? count(Math.round(perSecond)) : perSecond.toFixed(1), count(p.calls.started) + " in all, " + count(p.calls.in_flight) + " in flight", perSecond);
		waiting.update(count(p.waiting), "", p.waiting);
		run.update(quantile(p.run, "p50"), "95 %: " + quantile(p.run, "p95"));
		wait.update(quantile(p.wait, "p95"), "median: " + quantile(p.wait, "p50"));
		failing.update(percent(p.error_rate), "lately; " + count(p.calls.failed) + " failed in all");

		const states = ["idle", "busy", "shared", "starting", "canceling", "stopping"];
		const tally = states.map((s) => ({ state: s, n: p.worker_list.filter((w) => w.state === s).length })).filter((t) => t.n > 0);
		keyed(legend, tally, (t) => t.state, (t) => {
			const e = element("span");
			e.appendChild(element("span", "cell " + t.state));
			e.appendChild(element("span"));
			return e;
		}, (e, t) => setText(e.lastChild, t.n + " " + t.state));
		keyed(cells, p.worker_list, (w) => w.id, () => element("span", "cell"), (e, w) => {
			setClass(e, "cell " + (states.includes(w.state) ? w.state : ""));
			const text = w.id + ": " + w.state + (running(w) ? ", " + running(w) : "");
			if (e.title !== text) e.title = text;
		});
		for (const w of p.worker_list) w.able = w.state !== "stopping";
		workerTable.update(p.worker_list, (w) => w.id);
		workerTable.box.hidden = p.worker_list.length === 0;
		noWorkers.hidden = p.worker_list.length > 0;

		commands.hidden = p.commands.length === 0;
		commandTable.update(p.commands, (c) => c.name);
		const rows = [{ name: "run", ...p.run }, { name: "wait", ...p.wait }];
		if (p.batches) rows.push({ name: "calls a batch", text: { p50: p.batches.p50, p95: p.batches.p95, p99: "", max: p.batches.max } });
		latencyTable.update(rows, (l) => l.name);
		for (const e of p.calls.by_type) e.share = e.count / Math.max(1, p.calls.started);
		errorTable.update(p.calls.by_type, (e) => e.type);
		errorTable.box.hidden = p.calls.by_type.length === 0;
		noErrors.hidden = p.calls.by_type.length > 0;
		circuitTable.update(p.circuits, (c) => c.command);
		setText(sessionTitle, "Sessions: " + count(p.sessions) + (p.sessions > p.session_list.length ? ", the " + p.session_list.length + " used last" : ""));
		sessionTable.update(p.session_list, (s) => s.id);
	};
	return section;
}

function noticesOf(p) {
	const list = [];
	const own = p.circuits.find((c) => c.command === "");
	if (own && own.state !== "closed") {
		list.push({ bad: true, text: "No worker can start, and calls are refused: the pool's circuit is " + own.state + (own.cause ? ".\n" + own.cause : "") });
	} else if (own && own.cause) {
		list.push({ text: "Workers did not start, or were lost: " + own.cause });
	}
	for (const c of p.circuits) {
		if (c.command !== "" && c.state === "half-open") list.push({ text: "A call of " + c.command + " is tried, after it has cost workers: " + (c.cause || c.state) });
		if (c.command !== "" && c.state === "open") list.push({ bad: true, text: "Calls of " + c.command + " are refused, because they keep costing workers: " + (c.cause || c.state) });
	}
	if (p.unreapable) list.push({ bad: true, text: p.unreapable + " killed processes do not end. They need a person: a disk or a mount does not answer." });
	if (p.logs_dropped) list.push({ text: count(p.logs_dropped) + " log records were lost: the log handler is too slow, or fails." });
	if (p.events_dropped) list.push({ text: count(p.events_dropped) + " events were lost: Observer.Event is too slow." });
	return list;
}

function draw(view) {
	const at = Date.parse(view.time);
	const pools = view.pools.map((p, i) => ({ ...p, index: i }));
	const main = document.getElementById("main");
	keyed(document.getElementById("pools"), pools.length > 1 ? pools : [], (p) => p.index, (p) => {
		const a = element("a");
		a.href = "#pool-" + p.index;
		return a;
	}, (a, p) => setText(a, p.name));
	keyed(main, pools, (p) => p.index, (p) => poolSection(p.index), (section, p) => section.pypoolUpdate(p, at));
	if (pools.length === 0) main.textContent = "There is no pool.";
}

async function refresh() {
	clearTimeout(timer);
	const live = document.getElementById("live");
	if (!paused && !document.hidden) {
		try {
			const response = await fetch("?format=json", { headers: { Accept: "application/json" } });
			if (!response.ok) throw new Error("HTTP " + response.status);
			draw(await response.json());
			setText(live, "live");
			setClass(live, "");
		} catch (error) {
			setText(live, "no answer: " + error.message);
			setClass(live, "lost");
		}
	}
	timer = setTimeout(refresh, 1000);
}

document.getElementById("pause").onclick = (event) => {
	paused = !paused;
	event.target.setAttribute("aria-pressed", String(paused));
	event.target.textContent = paused ? "Go on" : "Pause";
	setText(document.getElementById("live"), paused ? "paused" : "live");
	refresh();
};
document.addEventListener("visibilitychange", refresh);
refresh();
