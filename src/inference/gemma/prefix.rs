//! Keys and values of texts that may come again: system prompts, conversations, documents.
//!
//! What a page of keys and values holds depends on its tokens and those before it, on nothing else; so pages form a tree in which
//! a path spells a text, [`PAGE`] tokens a node. A text that is finished (or being read) leaves its pages here; one that begins
//! looks how far the tree spells it, takes those pages and goes on behind them. The last page of a path may be shorter, and a
//! text may agree with only part of one: it gets a copy as soon as it writes to it ([`super::kv`]). A page that is taken has the
//! bits that reading the tokens would have given, because no kernel's order depends on how tokens come.
//!
//! Every scope, such as a tenant, has a tree of its own: nobody can learn from a faster answer what somebody else has asked.
//!
//! **Room.** Pages in memory have a limit, and so have pages in the file that takes what was not used for long, if there is one.
//! The least recently used page moves from memory to the file, and from the file out of the tree, leaves first. The file has no
//! name: what is in it ends with the process.
//!
//! Rejected: whole texts as entries (a system prompt that a hundred conversations share would be held a hundred times); hashes of
//! pages instead of their tokens (a collision would show one text to another); layers that see a window keeping only their last
//! window (a text could then only be continued where another ended, and not share its beginning).

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::kv::{KvCache, Layout, Page};
use crate::Error;
use crate::kernels::PAGE;

/// How much may be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in memory; 0 = nothing is kept.
    pub memory: u64,
    /// Bytes in a file.
    pub file: u64,
    /// The folder for the file.
    pub folder: std::path::PathBuf,
}

/// What there is, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of pages in memory.
    pub memory: u64,
    /// Bytes of pages in the file.
    pub file: u64,
    /// Texts that began with pages that were there, and those that did not.
    pub hits: u64,
    /// See `hits`.
    pub misses: u64,
    /// Tokens that need not be read again.
    pub tokens: u64,
    /// Pages that came back from the file.
    pub restored: u64,
    /// Pages that were dropped for want of room.
    pub dropped: u64,
}

/// The trees of one model.
pub(crate) struct Prefixes {
    layout: Arc<Layout>,
    limits: Limits,
    nodes: Vec<Option<Node>>,
    free: Vec<usize>,
    roots: HashMap<String, Vec<usize>>,
    spill: Option<Spill>,
    clock: u64,
    stats: Stats,
}

struct Node {
    /// Its parent, or the scope whose tree it begins.
    parent: Result<usize, String>,
    children: Vec<usize>,
    tokens: Vec<u32>,
    pages: Place,
    used: u64,
}

enum Place {
    Memory([Page; 2]),
    /// The number of the place in the file.
    File(usize),
}

/// The file, in places of one size.
struct Spill {
    file: File,
    places: usize,
    free: Vec<usize>,
}

impl Spill {
    /// A file without a name in this folder.
    fn new(folder: &Path) -> std::io::Result<Spill> {
        Ok(Spill { file: tempfile_in(folder)?, places: 0, free: Vec::new() })
    }
}

/// Creates a file and takes its name away: it is gone when it is closed.
fn tempfile_in(folder: &Path) -> std::io::Result<File> {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = folder.join(format!("engram-{}-{number}.kv", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

impl Prefixes {
    pub(crate) fn new(layout: Arc<Layout>) -> Prefixes {
        Prefixes {
            layout,
            limits: Limits::default(),
            nodes: Vec::new(),
            free: Vec::new(),
            roots: HashMap::new(),
            spill: None,
            clock: 0,
            stats: Stats::default(),
        }
    }

    /// Changes how much may be kept; what is too much goes. Where the file cannot be made, nothing is moved to one.
    pub(crate) fn limit(&mut self, limits: &Limits) -> Result<(), Error> {
        if *limits == self.limits {
            return Ok(());
        }
        let moved = limits.folder != self.limits.folder || (limits.file > 0) != self.spill.is_some();
        if moved {
            self.drop_where(|node| matches!(node.pages, Place::File(_)));
            self.spill = None;
        }
        self.limits = limits.clone();
        let mut made = Ok(());
        if moved && self.limits.file > 0 {
            match Spill::new(&self.limits.folder) {
                Ok(spill) => self.spill = Some(spill),
                Err(error) => {
                    let folder = self.limits.folder.display();
                    made = Err(Error::new(format!("no file for keys and values in {folder}: {error}")));
                }
            }
        }
        self.make_room();
        made
    }

    pub(crate) fn stats(&self) -> Stats {
        self.stats
    }

    /// Bytes of one page of both kinds.
    fn page_bytes(&self) -> u64 {
        self.layout.page_bytes().iter().sum::<usize>() as u64
    }

    fn node(&self, id: usize) -> Option<&Node> {
        self.nodes.get(id).and_then(Option::as_ref)
    }

    fn children(&self, of: Option<usize>, scope: &str) -> &[usize] {
        match of {
            None => self.roots.get(scope).map_or(&[], Vec::as_slice),
            Some(id) => self.node(id).map_or(&[], |node| &node.children),
        }
    }

    /// The keys and values of as many of the first tokens as there are, but not of the last one, whose logits are wanted.
    pub(crate) fn find(&mut self, scope: &str, tokens: &[u32]) -> Option<(KvCache, usize)> {
        if self.limits.memory == 0 {
            return None;
        }
        let most = tokens.len().saturating_sub(1);
        let (mut path, mut len) = (Vec::new(), 0);
        while len < most {
            let rest = &tokens[len..most];
            let agreeing = |id: &usize| {
                let node = self.node(*id)?;
                let same = node.tokens.iter().zip(rest).take_while(|(a, b)| a == b).count();
                (same > 0).then_some((same, *id))
            };
            let Some((same, id)) = self.children(path.last().copied(), scope).iter().filter_map(agreeing).max() else {
                break;
            };
            path.push(id);
            len += same;
            if same < PAGE {
                break;
            }
        }
        // Every page of the layers that see everything is needed, and of the others the window's.
        let mut pages = Vec::with_capacity(path.len());
        for &id in &path {
            match self.restore(id) {
                Some(both) => pages.push(both),
                None => break,
            }
        }
        len = len.min(pages.len() * PAGE);
        if len == 0 {
            self.stats.misses += 1;
            return None;
        }
        self.clock += 1;
        let clock = self.clock;
        for &id in &path {
            if let Some(node) = self.nodes.get_mut(id).and_then(Option::as_mut) {
                node.used = clock;
            }
        }
        self.stats.hits += 1;
        self.stats.tokens += len as u64;
        self.make_room();
        Some((KvCache::of_pages(Arc::clone(&self.layout), pages, len), len))
    }

    /// Keeps the pages of a text of which these tokens have their keys and values in `cache`; those that are full, and where
    /// it has `ended` the last one too.
    pub(crate) fn keep(&mut self, scope: &str, tokens: &[u32], cache: &KvCache, ended: bool) {
        if self.limits.memory == 0 {
            return;
        }
        self.clock += 1;
        let mut at = None;
        for (number, piece) in tokens.chunks(PAGE).enumerate() {
            if piece.len() < PAGE && !ended {
                break;
            }
            let same = |id: &&usize| self.node(**id).is_some_and(|node| node.tokens.starts_with(piece));
            if let Some(&id) = self.children(at, scope).iter().find(same) {
                if let Some(node) = self.nodes.get_mut(id).and_then(Option::as_mut) {
                    node.used = self.clock;
                }
                at = Some(id);
                continue;
            }
            let Some(pages) = cache.page(number) else { break };
            // A shorter beginning of the same page is now part of it.
            let shorter = |id: &&usize| self.node(**id).is_some_and(|node| piece.starts_with(&node.tokens));
            if let Some(&id) = self.children(at, scope).iter().find(shorter) {
                self.remove(id);
            }
            at = Some(self.add(at, scope, piece, pages));
        }
        self.make_room();
    }

    fn add(&mut self, parent: Option<usize>, scope: &str, tokens: &[u32], pages: [Page; 2]) -> usize {
        let node = Node {
            parent: parent.ok_or_else(|| scope.to_owned()),
            children: Vec::new(),
            tokens: tokens.to_vec(),
            pages: Place::Memory(pages),
            used: self.clock,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id] = Some(node);
                id
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() - 1
            }
        };
        match parent.and_then(|parent| self.nodes.get_mut(parent).and_then(Option::as_mut)) {
            Some(parent) => parent.children.push(id),
            None => self.roots.entry(scope.to_owned()).or_default().push(id),
        }
        self.stats.memory += self.page_bytes();
        id
    }

    /// Removes a node and all below it.
    fn remove(&mut self, id: usize) {
        let Some(node) = self.nodes.get_mut(id).and_then(Option::take) else { return };
        self.free.push(id);
        match node.pages {
            Place::Memory(_) => self.stats.memory -= self.page_bytes(),
            Place::File(place) => {
                self.stats.file -= self.page_bytes();
                if let Some(spill) = &mut self.spill {
                    spill.free.push(place);
                }
            }
        }
        match &node.parent {
            Ok(parent) => {
                if let Some(parent) = self.nodes.get_mut(*parent).and_then(Option::as_mut) {
                    parent.children.retain(|child| *child != id);
                }
            }
            Err(scope) => {
                if let Some(roots) = self.roots.get_mut(scope) {
                    roots.retain(|root| *root != id);
                    if roots.is_empty() {
                        self.roots.remove(scope);
                    }
                }
            }
        }
        for child in node.children {
            self.remove(child);
        }
    }

    fn drop_where(&mut self, which: impl Fn(&Node) -> bool) {
        let ids: Vec<usize> = (0..self.nodes.len()).filter(|id| self.node(*id).is_some_and(&which)).collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// Drops what is kept for scopes that begin so.
    pub(crate) fn forget(&mut self, beginning: &str) {
        let scopes = self.roots.iter().filter(|(scope, _)| scope.starts_with(beginning));
        let ids: Vec<usize> = scopes.flat_map(|(_, roots)| roots).copied().collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// Drops everything that is kept.
    pub(crate) fn clear(&mut self) {
        self.drop_where(|_| true);
    }

    /// The pages of a node, read back if they are in the file. `None` where that is not possible: then it is gone.
    fn restore(&mut self, id: usize) -> Option<[Page; 2]> {
        let place = match &self.node(id)?.pages {
            Place::Memory(pages) => return Some(pages.clone()),
            Place::File(place) => *place,
        };
        let pages = self.read(place);
        if pages.is_none() {
            self.remove(id);
        }
        let pages = pages?;
        let node = self.nodes.get_mut(id).and_then(Option::as_mut)?;
        node.pages = Place::Memory(pages.clone());
        if let Some(spill) = &mut self.spill {
            spill.free.push(place);
        }
        self.stats.file -= self.page_bytes();
        self.stats.memory += self.page_bytes();
        self.stats.restored += 1;
        Some(pages)
    }

    fn read(&self, place: usize) -> Option<[Page; 2]> {
        let file = &self.spill.as_ref()?.file;
        let mut offset = (place as u64).checked_mul(self.page_bytes())?;
        let mut pages = Vec::with_capacity(2);
        for kind in 0..2 {
            let mut page = self.layout.new_page(kind).ok()?;
            file.read_exact_at(&mut page, offset).ok()?;
            offset += page.len() as u64;
            pages.push(Arc::new(page));
        }
        pages.try_into().ok()
    }

    /// Writes the pages of a node to the file; whether it could.
    fn write(&mut self, id: usize) -> bool {
        let bytes = self.page_bytes();
        if self.stats.file + bytes > self.limits.file {
            return false;
        }
        let Some(spill) = &mut self.spill else { return false };
        let Some(node) = self.nodes.get_mut(id).and_then(Option::as_mut) else { return false };
        let Place::Memory(pages) = &node.pages else { return false };
        let place = spill.free.pop().unwrap_or_else(|| {
            spill.places += 1;
            spill.places - 1
        });
        let mut offset = place as u64 * bytes;
        for page in pages {
            if spill.file.write_all_at(page, offset).is_err() {
                spill.free.push(place);
                return false;
            }
            offset += page.len() as u64;
        }
        node.pages = Place::File(place);
        self.stats.memory -= bytes;
        self.stats.file += bytes;
        true
    }

    /// Moves and drops what was not used for longest until the limits hold.
    fn make_room(&mut self) {
        while self.stats.memory > self.limits.memory {
            let Some(oldest) = self.oldest(|node| matches!(node.pages, Place::Memory(_))) else { return };
            if self.spill.is_some() && !self.write(oldest) {
                // No room there, or it cannot be written: leaves of the file make room once, then this one goes.
                if let Some(leaf) = self.oldest(|node| node.children.is_empty() && matches!(node.pages, Place::File(_)))
                {
                    self.stats.dropped += 1;
                    self.remove(leaf);
                    if self.write(oldest) {
                        continue;
                    }
                }
            }
            if self.node(oldest).is_some_and(|node| matches!(node.pages, Place::Memory(_))) {
                let leaf = self.oldest(|node| node.children.is_empty() && matches!(node.pages, Place::Memory(_)));
                self.stats.dropped += 1;
                self.remove(leaf.unwrap_or(oldest));
            }
        }
        while self.stats.file > self.limits.file {
            let in_file = |node: &Node| matches!(node.pages, Place::File(_));
            let leaf = self.oldest(|node| node.children.is_empty() && in_file(node)).or_else(|| self.oldest(in_file));
            let Some(leaf) = leaf else { return };
            self.stats.dropped += 1;
            self.remove(leaf);
        }
    }

    /// The node that was not used for longest, of those that are wanted.
    fn oldest(&self, which: impl Fn(&Node) -> bool) -> Option<usize> {
        let nodes = self.nodes.iter().enumerate().filter_map(|(id, node)| Some((node.as_ref()?, id)));
        // Of those that were used at the same time the deepest come last in the list, and go first.
        nodes.filter(|(node, _)| which(node)).map(|(node, id)| (node.used, std::cmp::Reverse(id))).min().map(|o| o.1.0)
    }
}

#[cfg(test)]
mod tests;
