//! A list in pages, copied on write.
//!
//! Cloning is O(1). A change after that copies one page of [`PAGE`] elements and the list of pages, so that a space of ten million
//! memories (10,000 segments) copies some 200 pointers, not 10,000 segments, when a recall on another thread holds a snapshot.

use std::sync::Arc;

const PAGE: usize = 64;

#[derive(Clone)]
pub(super) struct Paged<T> {
    pages: Arc<Vec<Arc<Vec<T>>>>,
    len: usize,
}

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Paged { pages: Arc::default(), len: 0 }
    }
}

impl<T: Clone> Paged<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, at: usize) -> Option<&T> {
        self.pages.get(at / PAGE)?.get(at % PAGE)
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        Arc::make_mut(Arc::make_mut(&mut self.pages).get_mut(at / PAGE)?).get_mut(at % PAGE)
    }

    pub(super) fn push(&mut self, element: T) {
        let pages = Arc::make_mut(&mut self.pages);
        match pages.last_mut() {
            Some(page) if page.len() < PAGE => Arc::make_mut(page).push(element),
            _ => pages.push(Arc::new(vec![element])),
        }
        self.len += 1;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flat_map(|page| page.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_stays_as_it_was() {
        let mut list = Paged::default();
        (0..200).for_each(|n| list.push(n));
        let clone = list.clone();
        list.push(200);
        *list.get_mut(70).unwrap() = 7;
        assert_eq!(clone.iter().copied().collect::<Vec<_>>(), (0..200).collect::<Vec<_>>());
        assert_eq!((clone.len(), list.len(), list.get(70), list.get(200)), (200, 201, Some(&7), Some(&200)));
        assert!(list.get(201).is_none() && list.get_mut(201).is_none());
    }
}
