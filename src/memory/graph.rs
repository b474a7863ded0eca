//! Links between memories, and what is reached over them.
//!
//! A link goes from one memory to another, has a name ("mentions", "caused by"), a weight above 0 and up to 1, the time at which it was made, and a reason
//! if it was not a caller who made it. From, to and name say which link it is: setting it again replaces the rest.
//!
//! **Where links are.** With both of their ends: each chunk of the records has, beside its columns, a map from a row to the links of that memory, by slot. It
//! is shared with snapshots and copied when it changes, so a walk on another thread needs no index, and no lock. The list of a memory is in the order of the
//! other's id, then the name, then the direction: whoever reads it, saves it or adds it up does so in an order that depends on the data alone. What is
//! needed most, "all links of this memory, both ways", is one look-up.
//!
//! **When they go.** With either of their ends: [`Space::cut_links`] takes the links of a memory from the others' lists before its slot is free, whatever the
//! memory goes for; a merge first moves them to the memory that stays. So no link leads to a slot that is another memory by now. A memory that has expired or is hidden
//! still has its links until it is taken away, which nobody sees: no walk goes there, and the digest leaves them out.
//!
//! **What is reached.** Activation spreads as in ACT-R (Anderson 1983; Collins and Loftus 1975) from where one begins, which is a memory with 1, or the
//! best results of a recall with their relevance: over a link goes the activation of the one end × the weight × [`DECAY`] / √(links of that end), in either
//! direction, so that what hangs on a hub of a hundred links gets a tenth. Each memory passes on once, at the depth at which it was first reached, what it has by then; never back to
//! those before it, which would only be the echo of their own. What several links bring adds up. At each depth the [`FRONTIER`] strongest pass on, which bounds the work.
//! Memories that have expired, are superseded or do not pass the filters of a recall neither come back nor pass on: a walk is the same as if they were not there.
//!
//! Rejected: an index of links in the space (a snapshot has none, and recall runs on snapshots), links in the record of a memory (each would rewrite the text, and removal would have to parse
//! the records of others), one end only (half of the walks would look at every memory), spreading until it comes to rest (a matrix of the
//! whole space for differences in the third digit), the best path alone instead of a sum (two weak hints are more than one).

use crate::derived;
use crate::effect::Effect;
use crate::entry::{Entry, block, check_length, check_name, check_time};
use crate::kin;
use crate::records::Records;
use crate::snapshot::Snapshot;
use crate::space::{Space, is_hidden};
use crate::{Error, MemoryId, Millis, Result, limits};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

/// What is left of an activation at the other end of a link of weight 1, if it is the only one.
const DECAY: f64 = 0.5;
/// Memories of one depth that pass on what they got.
pub(crate) const FRONTIER: usize = 1_000;
/// Bytes of a list of links besides these: its place in the map of the chunk, and its counts.
const LIST_BYTES: usize = 48;

/// A link between two memories.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// The memory that it goes out from.
    pub from: MemoryId,
    /// The memory that it goes to.
    pub to: MemoryId,
    /// Its name, such as `mentions`.
    pub rel: Box<str>,
    /// How strong it is: above 0 and up to 1.
    pub weight: f64,
    /// When it was made.
    pub at: Millis,
    /// Why, if it was not a caller who made it.
    pub reason: Option<Box<str>>,
}

impl Link {
    /// As a consolidation reports it.
    pub(crate) fn in_words(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or_default();
        format!("{} {} {}: {reason}", self.from, self.rel, self.to)
    }

    /// Checks everything that a link must fulfil, whether it comes from a command, a file or the network.
    pub(crate) fn check(&self) -> Result<()> {
        if self.from == self.to {
            return Err(Error::new(format!("a link of {} to itself: it takes two memories", self.from)));
        }
        check_name("REL", &self.rel)?;
        if !(self.weight > 0.0 && self.weight <= 1.0) {
            return Err(Error::new(format!("WEIGHT is {}: it takes a number above 0 and up to 1", self.weight)));
        }
        check_time("the time of a link", self.at)?;
        self.reason.as_ref().map_or(Ok(()), |reason| check_length("the reason", reason, limits::REASON_BYTES))
    }
}

/// A link as the memory at one of its ends has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Edge {
    /// The slot of the other end.
    pub other: u32,
    /// Whether it goes out from this end.
    pub outgoing: bool,
    /// Shared by both ends, as the reason is.
    pub rel: Arc<str>,
    pub weight: f64,
    pub at: Millis,
    pub reason: Option<Arc<str>>,
}

impl Edge {
    /// The order of a list of links.
    fn order(&self, view: &Snapshot, other: MemoryId, rel: &str, outgoing: bool) -> Ordering {
        let own = (view.id(self.other), &*self.rel, self.outgoing);
        own.cmp(&(other, rel, outgoing))
    }

    /// As the link that it is an end of.
    fn link(&self, view: &Snapshot, own: MemoryId) -> Link {
        let other = view.id(self.other);
        let (from, to) = if self.outgoing { (own, other) } else { (other, own) };
        let reason = self.reason.as_deref().map(Box::from);
        Link { from, to, rel: Box::from(&*self.rel), weight: self.weight, at: self.at, reason }
    }

    /// Whether it says the same, seen from the other end.
    pub(crate) fn mirrors(&self, other: &Edge) -> bool {
        self.outgoing != other.outgoing
            && self.rel == other.rel
            && (self.weight, self.at) == (other.weight, other.at)
            && self.reason == other.reason
    }

    /// Bytes on the heap, nearly. Texts count where the link goes out.
    fn bytes(&self) -> usize {
        let text = |text: &Arc<str>| match COMMON.contains(&&**text) {
            true => 0,
            false => block(2 * size_of::<usize>() + text.len()),
        };
        let texts = if self.outgoing { text(&self.rel) + self.reason.as_ref().map_or(0, text) } else { 0 };
        size_of::<Edge>() + texts
    }
}

/// What consolidation writes again and again: one copy does for all links of all spaces.
const COMMON: [&str; 6] =
    [derived::REL, derived::LEARNED, derived::SUMMED_UP, derived::REFLECTED, kin::RELS[0], kin::RELS[1]];

fn shared(text: &str) -> Arc<str> {
    static TEXTS: LazyLock<[Arc<str>; COMMON.len()]> = LazyLock::new(|| COMMON.map(Arc::from));
    let known = TEXTS.iter().find(|known| &***known == text);
    known.map_or_else(|| Arc::from(text), Arc::clone)
}

/// Bytes on the heap that a list of links takes, nearly.
pub(crate) fn edges_bytes(edges: &[Edge]) -> usize {
    if edges.is_empty() { 0 } else { LIST_BYTES + edges.iter().map(Edge::bytes).sum::<usize>() }
}

/// How many links there are, and what they take.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct LinkCounts {
    pub links: usize,
    pub bytes: usize,
}

impl LinkCounts {
    pub(crate) fn add(&mut self, edges: &[Edge]) {
        self.links += edges.iter().filter(|edge| edge.outgoing).count();
        self.bytes += edges_bytes(edges);
    }

    pub(crate) fn remove(&mut self, edges: &[Edge]) {
        self.links -= edges.iter().filter(|edge| edge.outgoing).count();
        self.bytes -= edges_bytes(edges);
    }
}

/// The link over which most of its activation came to a memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Via {
    /// The memory at the other end, from which it came.
    pub from: MemoryId,
    /// The name of the link.
    pub rel: Arc<str>,
    /// Whether the link goes out from `from`; else it goes there.
    pub outgoing: bool,
    /// The weight of the link.
    pub weight: f64,
    /// When the link was made.
    pub at: Millis,
    /// Why, if it was not a caller who made it.
    pub reason: Option<Arc<str>>,
    /// How many links away from where the walk began; 0 for what was there from the beginning.
    pub depth: usize,
    /// The activation that came over this and all other links.
    pub activation: f64,
}

/// A memory that was reached over links.
#[derive(Debug, Clone)]
pub struct Related {
    /// The memory.
    pub entry: Entry,
    /// How.
    pub via: Via,
}

/// A memory on a walk.
struct Node {
    slot: u32,
    id: MemoryId,
    /// What it had from the beginning.
    own: f64,
    /// What came over links.
    received: f64,
    /// The depth at which it passes on.
    depth: Option<usize>,
    /// The strongest link that something came over: how much, from which slot, and the link there.
    by: Option<(f64, u32, Edge)>,
}

/// Over what a walk goes.
pub(crate) struct Walk<'a> {
    pub now: Millis,
    pub depth: usize,
    /// Links of this name alone.
    pub rel: Option<&'a str>,
}

/// What a walk came to.
pub(crate) struct Spread {
    /// Those that it began with, in their order, then those that were reached.
    nodes: Vec<Node>,
}

impl Spread {
    /// The memories that it began with, in their order, then those that were reached: slot, id, what came over links, and over which.
    pub(crate) fn into_reached(self, view: &Snapshot) -> impl Iterator<Item = (u32, MemoryId, f64, Option<Via>)> {
        self.nodes.into_iter().map(|node| {
            let via = node.by.map(|(_, from, edge)| Via {
                from: view.id(from),
                rel: edge.rel,
                outgoing: edge.outgoing,
                weight: edge.weight,
                at: edge.at,
                reason: edge.reason,
                depth: node.depth.unwrap_or(0),
                activation: node.received,
            });
            (node.slot, node.id, node.received, via)
        })
    }
}

impl Snapshot {
    /// Lets activation spread from memories that have some: of those in `begin`, which are all different, the first `firing` pass on theirs.
    pub(crate) fn spread(
        &self,
        walk: &Walk,
        begin: &[(u32, f64)],
        firing: usize,
        admits: impl Fn(u32) -> bool,
    ) -> Spread {
        let first = |(n, (slot, own)): (usize, &(u32, f64))| Node {
            slot: *slot,
            id: self.id(*slot),
            own: *own,
            received: 0.0,
            depth: (n < firing).then_some(0),
            by: None,
        };
        let mut nodes: Vec<Node> = begin.iter().enumerate().map(first).collect();
        let mut places: HashMap<u32, usize> = nodes.iter().enumerate().map(|(n, node)| (node.slot, n)).collect();
        let mut frontier: Vec<usize> = (0..firing.min(nodes.len())).collect();
        for depth in 1..=walk.depth {
            // What they have now: what comes to them on the way changes nothing that they pass on, whatever the order.
            let mut passing: Vec<(f64, MemoryId, u32)> = frontier
                .iter()
                .filter_map(|n| nodes.get(*n))
                .map(|node| (node.own + node.received, node.id, node.slot))
                .collect();
            if passing.len() > FRONTIER {
                let strongest =
                    |a: &(f64, MemoryId, u32), b: &(f64, MemoryId, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
                passing.select_nth_unstable_by(FRONTIER - 1, strongest);
                passing.truncate(FRONTIER);
            }
            // Sums of floats depend on the order in which they are made: by id.
            passing.sort_unstable_by_key(|(_, id, _)| *id);
            frontier.clear();
            for (activation, _, slot) in passing {
                let edges = self.records.edges(slot);
                let fan = edges.iter().filter(|edge| !self.records.is_expired(edge.other, walk.now)).count();
                let share = activation * DECAY / (fan.max(1) as f64).sqrt();
                for edge in edges.iter().filter(|edge| walk.rel.is_none_or(|rel| *edge.rel == *rel)) {
                    let n = match places.get(&edge.other) {
                        Some(n) => *n,
                        None if admits(edge.other) => {
                            let (slot, id) = (edge.other, self.id(edge.other));
                            places.insert(slot, nodes.len());
                            nodes.push(Node { slot, id, own: 0.0, received: 0.0, depth: None, by: None });
                            nodes.len() - 1
                        }
                        None => continue,
                    };
                    let Some(node) = nodes.get_mut(n) else { continue };
                    match node.depth {
                        None => {
                            node.depth = Some(depth);
                            frontier.push(n);
                        }
                        // Not back to those that were before.
                        Some(reached) if reached + 1 < depth => continue,
                        Some(_) => {}
                    }
                    let flow = share * edge.weight;
                    node.received += flow;
                    if node.by.as_ref().is_none_or(|(most, ..)| flow > *most) {
                        node.by = Some((flow, slot, edge.clone()));
                    }
                }
            }
        }
        Spread { nodes }
    }

    /// The memories that are linked to one, up to `depth` links away in either direction, over links of one name or of any: those that most activation
    /// reaches first, equal ones by id. What has expired or is superseded is passed over.
    ///
    /// Errors: an unknown memory, a depth or a number out of range, a name that no link can have.
    pub fn related(
        &self,
        now: Millis,
        id: MemoryId,
        rel: Option<&str>,
        depth: usize,
        k: usize,
    ) -> Result<Vec<Related>> {
        check_depth("DEPTH", depth)?;
        rel.map_or(Ok(()), |rel| check_name("REL", rel))?;
        if k == 0 || k > limits::K {
            return Err(Error::new(format!("K is {k}: it takes 1 to {}", limits::K)));
        }
        let start = self.find(now, id).ok_or_else(|| Error::no_such_memory(id))?;
        let admits = |slot| !self.records.is_expired(slot, now) && self.records.superseded_at(slot).is_none();
        let spread = self.spread(&Walk { now, depth, rel }, &[(start, 1.0)], 1, admits);
        let mut reached: Vec<(u32, MemoryId, f64, Via)> = spread
            .into_reached(self)
            .skip(1)
            .filter_map(|(slot, id, activation, via)| Some((slot, id, activation, via?)))
            .collect();
        reached.sort_unstable_by(|a, b| b.2.total_cmp(&a.2).then(a.1.cmp(&b.1)));
        reached.truncate(k);
        let related = |(slot, _, _, via)| Some(Related { entry: self.records.entry(slot)?, via });
        Ok(reached.into_iter().filter_map(related).collect())
    }

    /// Where in its list the link between a memory and another is, or would be.
    fn place(&self, slot: u32, other: MemoryId, rel: &str, outgoing: bool) -> std::result::Result<usize, usize> {
        self.records.edges(slot).binary_search_by(|edge| edge.order(self, other, rel, outgoing))
    }

    /// Whether the links of a memory are in their order, each once.
    pub(crate) fn has_ordered_edges(&self, slot: u32) -> bool {
        let key = |edge: &Edge| (self.id(edge.other), edge.rel.clone(), edge.outgoing);
        self.records.edges(slot).is_sorted_by(|a, b| key(a) < key(b))
    }
}

pub(crate) fn check_depth(what: &str, depth: usize) -> Result<()> {
    if (1..=limits::LINK_DEPTH).contains(&depth) {
        return Ok(());
    }
    Err(Error::new(format!("{what} is {depth}: it takes 1 to {}", limits::LINK_DEPTH)))
}

pub(crate) fn too_many(id: MemoryId) -> Error {
    Error::new(format!("memory {id} has {} links, as many as one takes: MEM.UNLINK some of them first", limits::LINKS))
}

impl Space {
    /// How many links there are, those of what has expired and was not taken away yet included.
    pub fn links(&self) -> usize {
        self.records.links.links
    }

    /// The links that go out from a memory, by the id of the other and name; none if it is not there.
    pub fn links_from(&self, id: MemoryId) -> Vec<Link> {
        self.slot(id).map_or(Vec::new(), |slot| self.outgoing(slot).collect())
    }

    /// The links that go out from the memory in a slot, in order.
    pub(crate) fn outgoing(&self, slot: u32) -> impl Iterator<Item = Link> {
        let view = &self.view;
        let own = view.id(slot);
        view.records.edges(slot).iter().filter(|edge| edge.outgoing).map(move |edge| edge.link(view, own))
    }

    /// All links of the memory in a slot, whichever end it is.
    pub(crate) fn links_of(&self, slot: u32) -> impl Iterator<Item = Link> {
        let own = self.view.id(slot);
        self.view.records.edges(slot).iter().map(move |edge| edge.link(&self.view, own))
    }

    /// The same as [`Space::outgoing`] without those to memories that nobody sees.
    pub(crate) fn shown_outgoing(&self, slot: u32) -> impl Iterator<Item = Link> {
        let view = &self.view;
        let shown = view.records.edges(slot).iter().filter(|edge| edge.outgoing && !is_hidden(view, edge.other));
        shown.map(move |edge| edge.link(view, view.id(slot)))
    }

    /// The link of a name from one memory to another.
    pub(crate) fn link_between(&self, from: MemoryId, to: MemoryId, rel: &str) -> Option<Link> {
        let slot = self.slot(from)?;
        let place = self.view.place(slot, to, rel, true).ok()?;
        self.view.records.edges(slot).get(place).map(|edge| edge.link(&self.view, from))
    }

    /// Decides to link one memory to another, or to change the link of that name; no effect if it is there already.
    ///
    /// Errors: an unknown memory, one and the same, a name, weight or reason that no link has, more links than a memory takes.
    pub fn link(
        &self,
        now: Millis,
        from: MemoryId,
        to: MemoryId,
        rel: &str,
        weight: f64,
        reason: Option<&str>,
    ) -> Result<Vec<Effect>> {
        let link = Link { from, to, rel: rel.into(), weight, at: now, reason: reason.map(Box::from) };
        link.check()?;
        for id in [from, to] {
            self.standing(now, id).ok_or_else(|| Error::no_such_memory(id))?;
        }
        if let Some(old) = self.link_between(from, to, rel)
            && (old.weight, &old.reason) == (weight, &link.reason)
        {
            return Ok(Vec::new());
        }
        self.check_link(&link)?;
        Ok(vec![Effect::Link(Box::new(link))])
    }

    /// Decides to take the links from one memory to another, of one name or all. Gives how many.
    ///
    /// Errors: an unknown memory.
    pub fn unlink(&self, now: Millis, from: MemoryId, to: MemoryId, rel: Option<&str>) -> Result<(usize, Vec<Effect>)> {
        let slot = self.standing(now, from).ok_or_else(|| Error::no_such_memory(from))?;
        self.standing(now, to).ok_or_else(|| Error::no_such_memory(to))?;
        let taken = self.outgoing(slot).filter(|link| link.to == to && rel.is_none_or(|rel| *link.rel == *rel)).count();
        let effect = || Effect::Unlink { from, to, rel: rel.map(Box::from) };
        Ok((taken, (taken > 0).then(effect).into_iter().collect()))
    }

    /// Whether a memory stands and can take one more link behind these effects.
    pub(crate) fn has_room_for_links(&self, id: MemoryId, behind: &[Effect]) -> bool {
        let adds = |effect: &&Effect| matches!(effect, Effect::Link(link) if link.from == id || link.to == id);
        let edges = self.slot(id).map(|slot| self.view.records.edges(slot).len());
        edges.is_some_and(|edges| edges + behind.iter().filter(adds).count() < limits::LINKS)
    }

    /// The slots of a link's ends, if the space can take it.
    fn check_link(&self, link: &Link) -> Result<(u32, u32)> {
        link.check()?;
        let slot = |id| self.slot(id).ok_or_else(|| Error::no_such_memory(id));
        let (from, to) = (slot(link.from)?, slot(link.to)?);
        if self.view.place(from, link.to, &link.rel, true).is_err() {
            for (id, slot) in [(link.from, from), (link.to, to)] {
                if self.view.records.edges(slot).len() >= limits::LINKS {
                    return Err(too_many(id));
                }
            }
        }
        Ok((from, to))
    }

    /// Sets a link.
    pub(crate) fn put_link(&mut self, link: &Link) -> Result<()> {
        let (from, to) = self.check_link(link)?;
        let (rel, reason) = (shared(&link.rel), link.reason.as_deref().map(shared));
        for (slot, other, id, outgoing) in [(from, to, link.to, true), (to, from, link.from, false)] {
            let (rel, reason) = (rel.clone(), reason.clone());
            let edge = Edge { other, outgoing, rel, weight: link.weight, at: link.at, reason };
            let mut edges = self.view.records.edges(slot).to_vec();
            match self.view.place(slot, id, &link.rel, outgoing) {
                Ok(n) => edges.iter_mut().skip(n).take(1).for_each(|old| old.clone_from(&edge)),
                Err(n) => edges.insert(n, edge),
            }
            self.set_edges(slot, edges);
        }
        Ok(())
    }

    /// Takes the links from one memory to another; those that are gone are passed over.
    pub(crate) fn take_links(&mut self, from: MemoryId, to: MemoryId, rel: Option<&str>) {
        let (Some(from), Some(to)) = (self.slot(from), self.slot(to)) else { return };
        for (slot, other, outgoing) in [(from, to, true), (to, from, false)] {
            self.retain_edges(slot, |edge| {
                edge.other != other || edge.outgoing != outgoing || rel.is_some_and(|rel| *edge.rel != *rel)
            });
        }
    }

    /// Takes all links of a memory, at both ends: before its slot is another's.
    pub(crate) fn cut_links(&mut self, slot: u32) {
        let others: BTreeSet<u32> = self.view.records.edges(slot).iter().map(|edge| edge.other).collect();
        for other in others {
            self.retain_edges(other, |edge| edge.other != slot);
        }
        self.retain_edges(slot, |_| false);
    }

    fn retain_edges(&mut self, slot: u32, stays: impl Fn(&Edge) -> bool) {
        let edges = self.view.records.edges(slot);
        if !edges.iter().all(&stays) {
            let left = edges.iter().filter(|edge| stays(edge)).cloned().collect();
            self.set_edges(slot, left);
        }
    }

    fn set_edges(&mut self, slot: u32, edges: Vec<Edge>) {
        let shelf = self.shelf_of(slot);
        let (was, is) = (edges_bytes(self.view.records.edges(slot)), edges_bytes(&edges));
        if let Some(shelf) = self.shelves.get_mut(shelf) {
            shelf.bytes = shelf.bytes + is - was;
            let heat = &mut self.heats[self.view.records.heat(slot) as usize];
            heat.bytes = heat.bytes + is - was;
        }
        self.view.records.set_edges(&mut self.records, slot, edges);
    }

    /// The effects that give to the memory that stays of a merge, behind the removal of the others, the links that these had: of equal ones the strongest,
    /// and where they are more than one memory takes, the strongest of them.
    pub(crate) fn moved_links(&self, keep: MemoryId, gone: &[MemoryId]) -> Vec<Effect> {
        let records: &Records = &self.view.records;
        let Some(kept) = self.slot(keep) else { return Vec::new() };
        let gone: Vec<u32> = gone.iter().filter_map(|id| self.slot(*id)).collect();
        let within: BTreeSet<u32> = gone.iter().copied().chain([kept]).collect();
        // By the other, the name and the direction: the link, and whether it is one that the memory has by now.
        let mut links: BTreeMap<(MemoryId, Arc<str>, bool), (&Edge, bool)> = BTreeMap::new();
        let outward = |slot: u32| records.edges(slot).iter().filter(|edge| !within.contains(&edge.other));
        let key = |edge: &Edge| (self.view.id(edge.other), edge.rel.clone(), edge.outgoing);
        let own: BTreeSet<_> = outward(kept).map(key).collect();
        for (edge, is_own) in outward(kept)
            .map(|edge| (edge, true))
            .chain(gone.iter().flat_map(|slot| outward(*slot)).map(|edge| (edge, false)))
        {
            let best = links.entry(key(edge)).or_insert((edge, is_own));
            if edge.weight > best.0.weight {
                *best = (edge, false);
            }
        }
        let (changed, mut new): (Vec<_>, Vec<_>) =
            links.into_iter().filter(|(_, (_, is_own))| !is_own).partition(|(key, _)| own.contains(key));
        let room = limits::LINKS.saturating_sub(own.len());
        new.sort_by(|(a, (x, _)), (b, (y, _))| y.weight.total_cmp(&x.weight).then_with(|| a.cmp(b)));
        new.truncate(room);
        let moved = changed.into_iter().chain(new);
        moved.map(|(_, (edge, _))| Effect::Link(Box::new(edge.link(&self.view, keep)))).collect()
    }
}
