//! Bytes of artifacts in memory, up to a bound; what was not asked for longest goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use calor_device::{ArtifactKey, ArtifactKind};

/// Entries with their bytes, least recently used first out.
#[derive(Debug)]
pub(super) struct Memory {
    entries: HashMap<ArtifactKey, (Arc<[u8]>, u64)>,
    by_use: BTreeMap<u64, ArtifactKey>,
    clock: u64,
    held_bytes: [u64; 2],
    bytes_max: u64,
}

impl Memory {
    pub(super) fn new(bytes_max: u64) -> Self {
        let (entries, by_use) = (HashMap::new(), BTreeMap::new());
        Self { entries, by_use, clock: 0, held_bytes: [0; 2], bytes_max }
    }

    pub(super) fn get(&mut self, key: &ArtifactKey) -> Option<Arc<[u8]>> {
        let (bytes, used) = self.entries.get_mut(key)?;
        let key = self.by_use.remove(used)?;
        self.clock += 1;
        *used = self.clock;
        self.by_use.insert(self.clock, key);
        Some(bytes.clone())
    }

    /// Kinds of the entries that had to go. An entry larger than the bound is not taken.
    pub(super) fn insert(&mut self, key: &ArtifactKey, bytes: Arc<[u8]>) -> Vec<ArtifactKind> {
        self.remove(key);
        if self.bytes_max < bytes.len() as u64 {
            return Vec::new();
        }
        self.clock += 1;
        self.held_bytes[slot(key.kind)] += bytes.len() as u64;
        self.entries.insert(key.clone(), (bytes, self.clock));
        self.by_use.insert(self.clock, key.clone());
        let mut gone = Vec::new();
        while self.bytes_max < self.held_bytes.iter().sum()
            && let Some((_, oldest)) = self.by_use.first_key_value()
        {
            let oldest = oldest.clone();
            self.remove(&oldest);
            gone.push(oldest.kind);
        }
        gone
    }

    pub(super) fn remove(&mut self, key: &ArtifactKey) {
        if let Some((bytes, used)) = self.entries.remove(key) {
            self.by_use.remove(&used);
            self.held_bytes[slot(key.kind)] -= bytes.len() as u64;
        }
    }

    /// Bytes of entries of one kind.
    pub(super) fn held_bytes(&self, kind: ArtifactKind) -> u64 {
        self.held_bytes[slot(kind)]
    }
}

fn slot(kind: ArtifactKind) -> usize {
    match kind {
        ArtifactKind::Kernel => 0,
        ArtifactKind::Algorithm => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calor_kernel::Digest;

    fn key(body: u8) -> ArtifactKey {
        ArtifactKey {
            kind: ArtifactKind::Kernel,
            target: String::new(),
            producer: String::new(),
            body: Digest([body; 32]),
            label: String::new(),
        }
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut memory = Memory::new(30);
        for body in 0..3 {
            assert!(memory.insert(&key(body), vec![body; 10].into()).is_empty());
        }
        assert_eq!(memory.get(&key(0)).as_deref(), Some([0; 10].as_slice()));
        assert_eq!(memory.insert(&key(3), vec![3; 5].into()).len(), 1);
        assert!(memory.get(&key(1)).is_none());
        assert!(memory.get(&key(0)).is_some());
        assert_eq!(memory.held_bytes(ArtifactKind::Kernel), 25);
        assert_eq!(memory.insert(&key(4), vec![4; 20].into()).len(), 2);
        assert!(memory.get(&key(2)).is_none() && memory.get(&key(3)).is_none());
        assert!(memory.get(&key(0)).is_some() && memory.get(&key(4)).is_some());
        assert_eq!(memory.held_bytes(ArtifactKind::Kernel), 30);
    }

    #[test]
    fn an_entry_over_the_bound_is_not_taken() {
        let mut memory = Memory::new(8);
        memory.insert(&key(0), vec![0; 8].into());
        assert!(memory.insert(&key(1), vec![0; 9].into()).is_empty());
        assert!(memory.get(&key(0)).is_some() && memory.get(&key(1)).is_none());
        memory.insert(&key(0), vec![0; 4].into());
        assert_eq!(memory.held_bytes(ArtifactKind::Kernel), 4);
        assert!(Memory::new(0).insert(&key(0), vec![1].into()).is_empty());
    }
}
