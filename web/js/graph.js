// The page's graph with the subgraphs in it: its nodes, who an id of a run names, and what stands behind an input on
// the other side of a subgraph's border. Registers nothing, changes nothing.
import { app } from "../../../scripts/app.js";

const FARTHEST = 64; // nodes along a chain; graphs may have circles
const DEEPEST = 16; // subgraphs in one another
const BORDER_IN = -10; // LiteGraph's id of a subgraph's own inputs, of which a link inside comes; newer ones: "-10"
const BORDER_OUT = -20;
const MUTED = 2; // modes of a node
const BYPASSED = 4;

export function root() {
  return app.rootGraph ?? app.graph;
}

// {node, hosts} of every node; those of a subgraph once for each node that stands for it. hosts: the nodes whose
// subgraphs it lies in, the outermost first.
export function* places(graph = root(), hosts = []) {
  for (const node of graph?._nodes ?? []) {
    yield { node, hosts };
    if (node.subgraph && hosts.length < DEEPEST) yield* places(node.subgraph, [...hosts, node]);
  }
}

// Every node once.
export function nodes() {
  return [...new Set([...places()].map(({ node }) => node))];
}

export function nodesOf(kind) {
  return nodes().filter((node) => node.comfyClass === kind);
}

// {node, hosts} of the id that a run has for a node; "12:3" is node 3 in the subgraph that node 12 stands for.
export function placeOf(id) {
  let graph = root();
  let node = null;
  const hosts = [];
  for (const part of String(id).split(":")) {
    if (node) hosts.push(node);
    node = graph?.getNodeById?.(Number(part)) ?? graph?.getNodeById?.(part) ?? null;
    graph = node?.subgraph;
  }
  return node && { node, hosts };
}

// The nodes whose subgraphs a node lies in; of several that share one the first.
export function hostsOf(node) {
  if (!node.graph || node.graph === root()) return [];
  for (const place of places()) if (place.node === node) return place.hosts;
  return [];
}

export function widget(node, name) {
  return node.widgets?.find((each) => each.name === name);
}

function slotOf(node, name) {
  return node.inputs?.findIndex((each) => each.name === name) ?? -1;
}

function linkOf(graph, id) {
  return id == null ? undefined : graph?.links?.get?.(id) ?? graph?.links?.[id];
}

export function isLinked(node, name) {
  return node.inputs?.[slotOf(node, name)]?.link != null;
}

// The output that an input's value comes from, as {node, slot, hosts}.
function sourceOf(node, slot, hosts, far = 0) {
  const link = linkOf(node?.graph, node?.inputs?.[slot]?.link);
  if (!link || far > FARTHEST) return undefined;
  if (Number(link.origin_id) === BORDER_IN) return sourceOf(hosts.at(-1), link.origin_slot, hosts.slice(0, -1), far + 1);
  return madeBy(node.graph, link, hosts, far + 1);
}

// The output that makes what a link carries: of a subgraph what is in it, of a reroute or a bypassed node what goes
// through it, and nothing of a muted one.
function madeBy(graph, link, hosts, far) {
  const node = graph.getNodeById(link.origin_id);
  if (!node || node.mode === MUTED) return undefined;
  const kind = node.outputs?.[link.origin_slot]?.type;
  if (node.type === "Reroute") return sourceOf(node, 0, hosts, far);
  if (node.mode === BYPASSED) return sourceOf(node, node.inputs?.findIndex((each) => each.type === kind), hosts, far);
  if (!node.subgraph || hosts.length >= DEEPEST) return { node, slot: link.origin_slot, hosts };
  const inside = linkOf(node.subgraph, node.subgraph.outputs?.[link.origin_slot]?.linkIds?.[0]);
  return inside && madeBy(node.subgraph, inside, [...hosts, node], far);
}

// {node, hosts} behind an input, or undefined.
export function origin(node, name, hosts = hostsOf(node)) {
  return sourceOf(node, slotOf(node, name), hosts);
}

// The widget that holds an input's value: the node's own; that of the subgraph's node on which it is shown; that of a
// Primitive which is linked in its place. undefined where the value is made in the run.
export function holder(node, name, hosts = hostsOf(node)) {
  const slot = slotOf(node, name);
  return slot < 0 ? widget(node, name) : holderAt(node, slot, hosts);
}

function holderAt(node, slot, hosts) {
  const input = node.inputs?.[slot];
  const link = linkOf(node.graph, input?.link);
  if (!link) return widget(node, input?.widget?.name);
  const host = hosts.at(-1);
  if (host && Number(link.origin_id) === BORDER_IN) return holderAt(host, link.origin_slot, hosts.slice(0, -1));
  const from = sourceOf(node, slot, hosts)?.node;
  return from?.type?.startsWith("Primitive") ? from.widgets?.[0] : undefined;
}

export function read(node, name, hosts = hostsOf(node)) {
  return holder(node, name, hosts)?.value;
}

// Nodes that an output leads to, across borders and reroutes.
function targets(node, slot, hosts) {
  const found = [];
  for (const id of node.outputs?.[slot]?.links ?? []) {
    const link = linkOf(node.graph, id);
    const host = hosts.at(-1);
    if (link && Number(link.target_id) === BORDER_OUT && host) found.push(...targets(host, link.target_slot, hosts.slice(0, -1)));
    else if (link) found.push(...entered(node.graph.getNodeById(link.target_id), link.target_slot, hosts));
  }
  return found;
}

// What an input of a node is: the node, or, of one that stands for a subgraph, what its border leads to.
function entered(node, slot, hosts) {
  if (!node?.subgraph || hosts.length >= DEEPEST) return node ? [{ node, hosts }] : [];
  const inner = node.subgraph;
  const links = (inner.inputs?.[slot]?.linkIds ?? []).map((id) => linkOf(inner, id)).filter(Boolean);
  return links.flatMap((link) => entered(inner.getNodeById(link.target_id), link.target_slot, [...hosts, node]));
}

// {node, hosts} of all behind a node's outputs of a kind, nearest first.
export function* following(node, kind, hosts = hostsOf(node)) {
  const seen = new Map([[node, { node, hosts }]]);
  for (const each of seen.values()) {
    if (seen.size > FARTHEST) return;
    for (const [slot, output] of (each.node.outputs ?? []).entries()) {
      if (output.type !== kind && output.type !== "*") continue;
      for (const next of targets(each.node, slot, each.hosts)) {
        if (seen.has(next.node)) continue;
        seen.set(next.node, next);
        yield next;
      }
    }
  }
}
