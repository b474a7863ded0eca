//! An ordered set of small items: the shape of every index of a space.
//!
//! Items are slots (4 bytes); their keys (an id, a time and an id) are read from the columns through a function that each call
//! brings along, because a key in the index would take 24 bytes where the item takes 4. The items lie in leaves of up to
//! [`LEAF`], each with a copy of its first key, so that finding a leaf reads keys nearby and only the search within it goes to
//! the columns. Most indexes are filled in order: then a leaf is filled to the brim before the next begins, and an insertion is one
//! comparison.
//!
//! Rejected: the standard BTreeSet, which holds keys and fills its nodes of 11 to a little over half in that order (measured: 45 bytes per
//! memory and index where this takes 4 to 8).

use std::marker::PhantomData;

/// Items of a full leaf.
const LEAF: usize = 256;

#[derive(Clone)]
struct Leaf<T, K> {
    first: K,
    items: Vec<T>,
}

/// Items in the order of their keys, which are distinct. `key` in every call is the same function, and an item's key does not change while
/// it is in the set.
#[derive(Clone)]
pub(crate) struct Sorted<T, K> {
    /// None is empty.
    leaves: Vec<Leaf<T, K>>,
    len: usize,
    /// Room of all leaves, in items.
    room: usize,
    key: PhantomData<K>,
}

impl<T, K> Default for Sorted<T, K> {
    fn default() -> Self {
        Sorted { leaves: Vec::new(), len: 0, room: 0, key: PhantomData }
    }
}

/// A place between two items: before item `item` of leaf `leaf`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    leaf: usize,
    item: usize,
}

impl<T: Copy, K: Ord + Copy> Sorted<T, K> {
    /// Of items in order.
    pub(crate) fn of(items: &[T], key: impl Fn(T) -> K) -> Sorted<T, K> {
        let first = |items: &[T]| items.first().map(|first| key(*first));
        let leaves = items.chunks(LEAF).filter_map(|items| Some(Leaf { first: first(items)?, items: items.to_vec() }));
        Sorted { leaves: leaves.collect(), len: items.len(), room: items.len(), key: PhantomData }
    }

    /// How many items it holds.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.room * size_of::<T>() + self.leaves.capacity() * size_of::<Leaf<T, K>>()
    }

    /// The place before the first item whose key is not less than `bound`.
    fn seek(&self, bound: K, key: &impl Fn(T) -> K) -> Place {
        let leaf = self.leaves.partition_point(|leaf| leaf.first < bound).saturating_sub(1);
        let item = self.leaves.get(leaf).map_or(0, |leaf| leaf.items.partition_point(|item| key(*item) < bound));
        Place { leaf, item }
    }

    /// Puts an item in.
    pub(crate) fn insert(&mut self, item: T, key: impl Fn(T) -> K) {
        let own = key(item);
        self.len += 1;
        let last = self.leaves.len().wrapping_sub(1);
        // Behind everything, the usual case.
        if let Some(leaf) = self.leaves.last_mut()
            && leaf.items.last().is_some_and(|last| key(*last) < own)
        {
            if leaf.items.len() < LEAF {
                self.room += grow(&mut leaf.items, true);
                leaf.items.push(item);
            } else {
                // A leaf filled in order is full for good, unless something is removed.
                self.new_leaf(self.leaves.len(), own, item, last < 2);
            }
            return;
        }
        if self.leaves.is_empty() {
            return self.new_leaf(0, own, item, true);
        }
        let Place { mut leaf, item: mut at } = self.seek(own, &key);
        if self.leaves.get(leaf).is_some_and(|leaf| leaf.items.len() == LEAF) {
            self.split(leaf, &key);
            if at > LEAF / 2 {
                leaf += 1;
                at -= LEAF / 2;
            }
        }
        if let Some(leaf) = self.leaves.get_mut(leaf) {
            self.room += grow(&mut leaf.items, false);
            leaf.items.insert(at, item);
            if at == 0 {
                leaf.first = own;
            }
        }
    }

    fn new_leaf(&mut self, at: usize, first: K, item: T, small: bool) {
        let mut items = Vec::with_capacity(if small { 4 } else { LEAF });
        items.push(item);
        self.room += items.capacity();
        self.leaves.insert(at, Leaf { first, items });
    }

    fn split(&mut self, at: usize, key: &impl Fn(T) -> K) {
        let Some(leaf) = self.leaves.get_mut(at) else { return };
        let room = leaf.items.capacity();
        let upper = leaf.items.split_off(LEAF / 2);
        leaf.items.shrink_to(LEAF * 5 / 8);
        let Some(first) = upper.first().map(|item| key(*item)) else { return };
        self.room = self.room - room + leaf.items.capacity() + upper.capacity();
        self.leaves.insert(at + 1, Leaf { first, items: upper });
    }

    /// Takes an item out; one that is not in it changes nothing.
    pub(crate) fn remove(&mut self, item: T, key: impl Fn(T) -> K) {
        let own = key(item);
        let Place { leaf: at, item } = self.seek(own, &key);
        // An item with the least key of a leaf is sought in the leaf before it, and found behind its end.
        let (at, item) = match self.leaves.get(at) {
            Some(leaf) if item == leaf.items.len() => (at + 1, 0),
            _ => (at, item),
        };
        let Some(leaf) = self.leaves.get_mut(at) else { return };
        if leaf.items.get(item).is_none_or(|found| key(*found) != own) {
            return;
        }
        leaf.items.remove(item);
        self.len -= 1;
        if leaf.items.is_empty() {
            self.room -= leaf.items.capacity();
            self.leaves.remove(at);
            return;
        }
        if item == 0
            && let Some(first) = leaf.items.first()
        {
            leaf.first = key(*first);
        }
        let room = leaf.items.capacity();
        if leaf.items.len() * 4 < room && room > 8 {
            leaf.items.shrink_to(leaf.items.len() * 2);
            self.room -= room - leaf.items.capacity();
        }
        self.merge(at);
    }

    /// Joins a leaf with the next if both together fill less than half of one.
    fn merge(&mut self, at: usize) {
        let len = |at: usize| self.leaves.get(at).map(|leaf| leaf.items.len());
        let (Some(own), Some(next)) = (len(at), len(at + 1)) else { return };
        if own + next <= LEAF / 2 {
            let next = self.leaves.remove(at + 1);
            if let Some(leaf) = self.leaves.get_mut(at) {
                let room = leaf.items.capacity() + next.items.capacity();
                leaf.items.extend(next.items);
                self.room = self.room - room + leaf.items.capacity();
            }
        }
    }

    /// The item at or behind a key that comes first.
    pub(crate) fn first_from(&self, bound: K, key: impl Fn(T) -> K) -> Option<T> {
        self.between(self.seek(bound, &key), self.end()).next()
    }

    /// The item with exactly this key.
    pub(crate) fn find(&self, own: K, key: impl Fn(T) -> K) -> Option<T> {
        self.first_from(own, &key).filter(|item| key(*item) == own)
    }

    /// The first item.
    pub(crate) fn first(&self) -> Option<T> {
        self.leaves.first()?.items.first().copied()
    }

    fn end(&self) -> Place {
        Place { leaf: self.leaves.len(), item: 0 }
    }

    /// All items in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = T> {
        self.leaves.iter().flat_map(|leaf| leaf.items.iter().copied())
    }

    /// The items with keys from `from`, included, to `to`, not included, in order.
    pub(crate) fn range(&self, from: K, to: K, key: impl Fn(T) -> K) -> impl DoubleEndedIterator<Item = T> {
        let start = self.seek(from, &key);
        self.between(start, self.seek(to, &key).max(start))
    }

    /// The items with keys from `from`, included, in order.
    pub(crate) fn range_from(&self, from: K, key: impl Fn(T) -> K) -> impl DoubleEndedIterator<Item = T> {
        self.between(self.seek(from, &key), self.end())
    }

    fn between(&self, start: Place, end: Place) -> impl DoubleEndedIterator<Item = T> {
        let last = (end.leaf + usize::from(end.item > 0)).min(self.leaves.len());
        let leaves = self.leaves.get(start.leaf..last).unwrap_or(&[]);
        leaves.iter().enumerate().flat_map(move |(n, leaf)| {
            let from = if n == 0 { start.item } else { 0 };
            let to = if start.leaf + n == end.leaf { end.item } else { leaf.items.len() };
            leaf.items.get(from..to).unwrap_or(&[]).iter().copied()
        })
    }

    /// How many items have keys below `bound`: counted by leaves.
    pub(crate) fn count_below(&self, bound: K, key: impl Fn(T) -> K) -> usize {
        let place = self.seek(bound, &key);
        self.leaves.iter().take(place.leaf).map(|leaf| leaf.items.len()).sum::<usize>() + place.item
    }
}

/// Makes room for one more item and tells how much the room grew: by doubling, but the last steps to the full leaf are small where items come
/// in any order, because such leaves are split at the brim.
fn grow<T>(items: &mut Vec<T>, in_order: bool) -> usize {
    let room = items.capacity();
    if items.len() < room {
        return 0;
    }
    let more = if in_order || room < LEAF / 2 { room.max(4) } else { LEAF / 8 };
    items.reserve_exact(more.min(LEAF - room.min(LEAF - 1)));
    items.capacity() - room
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn check(sorted: &Sorted<u32, u64>, model: &BTreeSet<u64>, key: &impl Fn(u32) -> u64) {
        let all: Vec<u64> = sorted.iter().map(key).collect();
        assert_eq!(all, model.iter().copied().collect::<Vec<_>>());
        assert_eq!(sorted.len(), model.len());
        assert_eq!(sorted.room, sorted.leaves.iter().map(|leaf| leaf.items.capacity()).sum::<usize>());
        assert!(sorted.leaves.iter().all(|leaf| leaf.items.first().is_some_and(|item| key(*item) == leaf.first)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_a_standard_set(steps in prop::collection::vec((any::<bool>(), 0u32..3000), 0..3000), bounds in prop::collection::vec(0u64..7000, 8)) {
            let key = |item: u32| u64::from(item) * 2;
            let (mut sorted, mut model) = (Sorted::default(), BTreeSet::new());
            for (insert, item) in steps {
                if insert {
                    if model.insert(key(item)) {
                        sorted.insert(item, key);
                    }
                } else {
                    model.remove(&key(item));
                    sorted.remove(item, key);
                }
            }
            check(&sorted, &model, &key);
            let items: Vec<u32> = sorted.iter().collect();
            check(&Sorted::of(&items, key), &model, &key);
            for pair in bounds.windows(2) {
                let (from, to) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
                let expected: Vec<u64> = model.range(from..to).copied().collect();
                let found: Vec<u64> = sorted.range(from, to, key).map(key).collect();
                prop_assert_eq!(&found, &expected);
                let back: Vec<u64> = sorted.range(from, to, key).rev().map(key).collect();
                prop_assert_eq!(back, expected.iter().rev().copied().collect::<Vec<_>>());
                prop_assert_eq!(sorted.first_from(from, key).map(key), model.range(from..).next().copied());
                prop_assert_eq!(sorted.find(from, key).map(key), model.get(&from).copied());
                prop_assert_eq!(sorted.count_below(from, key), model.range(..from).count());
                prop_assert_eq!(sorted.range_from(from, key).count(), model.range(from..).count());
            }
        }
    }

    #[test]
    fn filled_in_order_takes_little() {
        let mut sorted = Sorted::default();
        (0..100_000u32).for_each(|item| sorted.insert(item, u64::from));
        assert!(sorted.bytes() < 100_000 * 9 / 2, "{}", sorted.bytes());
        (0..100_000u32).for_each(|item| sorted.remove(item, u64::from));
        assert_eq!((sorted.len(), sorted.room), (0, 0));
    }
}
