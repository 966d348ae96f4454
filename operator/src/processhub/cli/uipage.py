"""The page of ``kubectl hub ui``: plain HTML and a script without libraries. All text of the cluster is set as text."""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>ProcessHub</title>
<link rel="stylesheet" href="ui.css">
<script src="ui.js" defer></script>
<h1>ProcessHub</h1>
<p><label>Children whose id or member contains <input id="filter" autofocus></label> <span id="note"></span></p>
<main id="hubs"></main>
</html>
"""

STYLE = """
body { font: 14px system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { text-align: left; padding: 0.15rem 1rem 0.15rem 0; vertical-align: top; }
th { font-weight: 600; color: #666; }
.bad { color: #b00020; }
"""

SCRIPT = """
"use strict";
const filter = document.getElementById("filter"), note = document.getElementById("note");

function element(name, text, bad) {
  const made = document.createElement(name);
  made.textContent = text === undefined || text === null ? "" : String(text);
  if (bad) made.className = "bad";
  return made;
}

function table(heads, rows) {
  const made = document.createElement("table"), head = made.insertRow();
  heads.forEach(text => head.append(element("th", text)));
  rows.forEach(cells => {
    const row = made.insertRow();
    cells.forEach(cell => row.append(Array.isArray(cell) ? element("td", ...cell) : element("td", cell)));
  });
  return made;
}

function section(hub) {
  const made = document.createElement("section");
  made.append(element("h2", hub.namespace + "/" + hub.hub));
  made.append(table(["condition", "status", "reason", "message"], hub.conditions.map(each => {
    const bad = each.status === (each.type === "Stalled" || each.type === "Reconciling" ? "True" : "False");
    return [each.type, [each.status, bad], each.reason, each.message];
  })));
  made.append(table(["member", "ready", "node", "address", "children", "cpu", "memory"], hub.members.map(each =>
    [each.name, [each.ready + (each.drained ? ", drained" : ""), !each.ready], each.node, each.podIP, each.children,
      each.cpu, each.memory])));
  made.append(element("p", hub.registry.length + " of " + hub.registrySize + " children"));
  made.append(table(["child", "member", "role", "state", "pid", "restarts", "reason", "message"],
    hub.registry.flatMap(child => child.nodes.map(node =>
      [child.id, node.name, node.role, [node.state, node.state === "Failed"], node.pid, node.restarts, node.reason,
        node.message]))));
  return made;
}

async function show() {
  try {
    const answer = await fetch("hubs.json?filter=" + encodeURIComponent(filter.value));
    if (!answer.ok) throw new Error("status " + answer.status);
    document.getElementById("hubs").replaceChildren(...(await answer.json()).map(section));
    note.textContent = "";
  } catch (error) {
    note.textContent = "kubectl hub ui does not answer: " + error.message;
  }
}

filter.addEventListener("input", show);
setInterval(show, 2000);
show();
"""
