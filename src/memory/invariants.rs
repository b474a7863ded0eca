//! What must hold in every space, for tests.

use crate::graph::{Edge, LinkCounts};
use crate::heat::HeatStats;
use crate::records::Link;
use crate::reindex::Indexing;
use crate::session::GONE;
use crate::space::{SUPERSEDED, Space, duplicate_item, is_staged, retention_key};
use crate::{MemoryId, limits};
use std::collections::BTreeMap;

impl Space {
    /// Asserts that every index agrees with the memories, and every count with what it counts.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        assert!(!self.loading, "a space is whole when its loader gives it");
        let view = &self.view;
        let records = &view.records;
        let shelves = SUPERSEDED + 1;
        let (mut count, mut pinned, mut bytes, mut expiring) =
            (vec![0; shelves], vec![0; shelves], vec![0; shelves], vec![0; shelves]);
        let mut meta_names: BTreeMap<Box<str>, usize> = BTreeMap::new();
        let mut sessions: BTreeMap<Box<str>, Vec<(u64, MemoryId)>> = BTreeMap::new();
        let (mut rows, mut staged, mut staged_rows) = (0, 0, 0);
        let (mut vector_bytes, mut staged_bytes) = (vec![0; shelves], vec![0; shelves]);
        let (mut documents, mut chunks, mut awaiting, mut turns) = (0, 0, 0, 0);
        let (mut held, mut unkept) = (vec![0; shelves], vec![0; shelves]);
        let mut links = LinkCounts::default();
        let mut heats = [HeatStats::default(); 3];
        assert_eq!(self.len(), records.iter().count(), "ids and slots");
        assert_eq!(self.len() + self.records.free(), records.count(), "free slots");
        let mut last = MemoryId::ZERO;
        for slot in self.ids.iter() {
            let Some(entry) = records.entry(slot) else { panic!("slot {slot} in the index of ids is empty") };
            let id = entry.id;
            assert!(last < id, "ids rise");
            last = id;
            let at = self.shelf_of(slot);
            let shelf = &self.shelves[at];
            assert_eq!(self.slot(id), Some(slot));
            assert_eq!(entry.check(), Ok(()));
            assert!(id <= self.last_id);
            let own = records.rows(slot);
            assert_eq!(usize::from(entry.windows), own.len(), "windows of {id}");
            let owned = |row: &_| view.rows.as_ref().is_some_and(|rows| rows.owner(*row) == Some(slot));
            assert!(own.iter().all(owned), "rows of {id}");
            let time = |slot| view.time_key(slot);
            let hash = duplicate_item(view.duplicate_hash(slot), slot);
            assert_eq!(self.timeline.find(time(slot), time), Some(slot), "timeline of {id}");
            let chunk = entry.passage.is_some();
            assert_eq!(self.duplicates.find(hash, |item| item).is_none(), chunk, "duplicates of {id}");
            chunks += usize::from(chunk);
            let kept = records.is_kept(slot) || is_staged(view, slot);
            let key = |slot| retention_key(view, &self.retention, slot);
            assert_eq!(shelf.retention.find(key(slot), key).is_none(), kept, "retention of {id}");
            assert_eq!(self.awaiting.contains(&id), entry.awaits, "waiting of {id}");
            assert!(kept || key(slot).0 <= view.retention(slot), "the retention key of {id} is no lower bound");
            let expiry = |slot| view.expiry_key(slot);
            assert_eq!(shelf.expiry.find(expiry(slot), expiry).is_some(), entry.expires.is_some(), "expiry of {id}");
            count[at] += 1;
            pinned[at] += usize::from(entry.pinned);
            held[at] += usize::from(!entry.pinned && records.held(slot) == Some(true));
            unkept[at] += usize::from(!kept);
            awaiting += usize::from(entry.awaits);
            turns += usize::from(records.held(slot).is_some());
            bytes[at] += self.slot_cost(slot);
            let heat = &mut heats[entry.heat as usize];
            heat.count += 1;
            heat.bytes += self.slot_cost(slot);
            heat.vectors += self.slot_vectors_cost(slot);
            assert_eq!(records.heat(slot), entry.heat, "heat of {id}");
            let precisions = own.iter().filter_map(|row| Some(view.rows.as_ref()?.precision_of(*row)));
            assert!(precisions.clone().all(|precision| Some(precision) == view.row_precision(slot)), "rows of {id}");
            expiring[at] += usize::from(entry.expires.is_some());
            rows += own.len();
            vector_bytes[at] += self.slot_vectors_cost(slot);
            if let Some(staging) = &self.staging
                && staging.places.template(slot).is_some()
            {
                staged += 1;
                staged_bytes[at] += staging.cost(slot);
                let mut found = 0;
                staging.places.each_row(slot, |row| {
                    assert_eq!(staging.rows.owner(row), Some(slot), "staged rows of {id}");
                    found += 1;
                });
                assert_eq!(staging.places.windows(slot), found, "staged windows of {id}");
                staged_rows += found;
            }
            let edges = records.edges(slot);
            assert!(view.has_ordered_edges(slot) && edges.len() <= limits::LINKS, "links of {id}");
            for edge in edges {
                let mirrored = |other: &&Edge| other.other == slot && edge.mirrors(other);
                assert_eq!(
                    records.edges(edge.other).iter().filter(mirrored).count(),
                    1,
                    "the other end of a link of {id}"
                );
                assert!(edge.other != slot && records.id(edge.other).is_some(), "a link of {id} to nothing");
            }
            links.add(edges);
            documents += usize::from(records.link(slot, Link::Document).is_some());
            for name in entry.meta.iter().flat_map(|meta| meta.keys()) {
                *meta_names.entry(name.as_str().into()).or_default() += 1;
            }
            match entry.session.filter(|_| !chunk) {
                Some(session) => sessions.entry(session).or_default().push((entry.at, id)),
                None => assert_eq!((records.link(slot, Link::Previous), records.link(slot, Link::Next)), (None, None)),
            }
        }
        assert_eq!((self.timeline.len(), self.duplicates.len()), (self.len(), self.len() - chunks));
        assert_eq!(self.awaiting.len(), awaiting, "memories that wait for vectors");
        assert_eq!((self.records.links, records.recount_links()), (links, links), "links");
        self.check_records(turns, chunks);
        assert_eq!(documents, if view.indexing.lexical { self.len() } else { 0 }, "lexical documents");
        match &self.reindexing {
            Some(reindexing) => {
                let past = records.iter().filter(|slot| reindexing.is_past(*slot)).count();
                assert_eq!(reindexing.documents.recount(), past, "documents of the next index");
                let (docs, _, dead, size) = reindexing.postings.recount();
                let counts = &reindexing.counts;
                assert_eq!((docs, counts.documents()), (past, past), "counted documents of the next index");
                assert_eq!((dead, size), (counts.dead(), counts.bytes()), "the next index");
            }
            None => assert_eq!(view.indexing, Indexing::by(self.config()), "words are indexed by the settings"),
        }
        let (docs, _, dead, size) = view.lexical.recount();
        assert_eq!((docs, self.lexical.documents()), (documents, documents), "counted lexical documents");
        assert_eq!((dead, size), (self.lexical.dead(), self.lexical.bytes()), "the lexical index");
        for (n, shelf) in self.shelves.iter().enumerate() {
            let found = (count[n], pinned[n], held[n], bytes[n]);
            assert_eq!((shelf.count, shelf.pinned, shelf.held, shelf.bytes), found, "shelf {n}");
            assert_eq!((shelf.expiry.len(), shelf.retention.len()), (expiring[n], unkept[n]), "indexes of shelf {n}");
        }
        assert!(self.shelves.iter().map(|shelf| shelf.vectors).eq(vector_bytes), "bytes of vectors");
        let counted = |heat: &HeatStats| (heat.count, heat.bytes, heat.vectors);
        assert!(self.heats.iter().map(counted).eq(heats.iter().map(counted)), "heat");
        if let Some(staging) = &self.staging {
            assert_eq!(
                (staging.places.len(), staging.counts.live),
                (staged, staged_rows),
                "staged memories and vectors"
            );
            assert_eq!(staging.bytes.to_vec(), staged_bytes, "bytes of staged vectors");
            let counts = &staging.counts;
            assert_eq!(staging.rows.recount(), (counts.live, counts.dead, counts.bytes), "staged vectors");
            assert_eq!(staging.places.counts.bytes, staging.places.recount(), "staged signs");
        }
        assert_eq!(self.meta_names, meta_names, "META names");
        self.check_sessions(sessions);
        assert_eq!((self.records.texts.bytes, self.records.signs.bytes), records.recount(), "texts and signs");
        if let Some(view) = &view.rows {
            assert_eq!(view.recount(), (self.rows.live, self.rows.dead, self.rows.bytes), "vectors");
            assert_eq!(self.rows.live, rows, "living rows");
        }
    }

    /// The records of sessions and documents name memories that are what they say, each once, and none is left out.
    fn check_records(&self, turns: usize, chunks: usize) {
        let records = &self.view.records;
        let (mut seen, mut held_turns) = (std::collections::BTreeSet::new(), 0);
        for (name, slot, held) in self.record_turns() {
            assert!(seen.insert(slot), "a turn of session {name} is named twice");
            assert_eq!(records.held(slot), Some(held), "a turn of session {name}");
            assert_eq!(records.record(slot).and_then(|record| record.session), Some(name));
            held_turns += 1;
        }
        assert_eq!(held_turns, turns, "turns in records");
        let ends = self.sessions.iter().filter_map(|(name, session)| Some((session.expires()?, name.clone())));
        assert!(ends.collect::<std::collections::BTreeSet<_>>() == self.session_ends, "ends of sessions");
        let mut named = 0;
        for (staged, documents) in [(false, &self.documents), (true, &self.staged_documents)] {
            for (name, shelved) in documents {
                for slot in &shelved.slots {
                    assert_eq!(records.record(*slot).and_then(|record| record.doc), Some(&**name));
                    assert_eq!(is_staged(&self.view, *slot), staged, "a chunk of {name}");
                    assert!(seen.insert(*slot), "a chunk of {name} is named twice");
                    named += 1;
                }
            }
        }
        let gone = records.iter().filter(|slot| records.is_chunk(*slot) && records.expires(*slot) == Some(GONE));
        assert_eq!(named + gone.count(), chunks, "chunks in records");
    }

    /// The turns of each session, in time, and each with its neighbours.
    fn check_sessions(&self, sessions: BTreeMap<Box<str>, Vec<(u64, MemoryId)>>) {
        assert_eq!(self.by_session.len(), sessions.len(), "sessions");
        for (name, mut turns) in sessions {
            turns.sort_unstable();
            let order: Vec<u32> = self.by_session.get(&name).into_iter().flat_map(|order| order.iter()).collect();
            assert_eq!(order.iter().map(|slot| self.view.time_key(*slot)).collect::<Vec<_>>(), turns, "session {name}");
            for (n, slot) in order.iter().enumerate() {
                let link = |link| self.view.records.link(*slot, link);
                let previous = n.checked_sub(1).and_then(|n| order.get(n)).copied();
                assert_eq!(
                    (link(Link::Previous), link(Link::Next)),
                    (previous, order.get(n + 1).copied()),
                    "session {name}"
                );
            }
        }
    }
}
