//! Which device holds what: everything on each where it fits, or each checkpoint on one of them.
//!
//! A function of bytes alone: the same bytes give the same layout. What it says is not done here.

use std::fmt;

use crate::error::{EmbeddingError, EmbeddingResult};
use crate::model_id::ModelId;

/// What a part of a pipeline wants of a device's memory, by how it adds up with other parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartBytes {
    /// Its own: weights, states, and what no other part uses.
    pub own_bytes: u64,
    /// Its arena. Parts run in turn: all have the largest one together.
    pub arena_bytes: u64,
    /// Its inputs and outputs, of which all have the largest together, too.
    pub boundary_bytes: u64,
    /// What raw weights pass through while they are loaded, part after part.
    pub loading_bytes: u64,
}

/// A checkpoint, or the fusion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartNeed {
    /// Its name.
    pub name: &'static str,
    /// The models that it serves; none for the fusion.
    pub model_ids: Vec<ModelId>,
    /// What it wants.
    pub bytes: PartBytes,
}

/// What a pipeline wants of a kind of device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineNeed {
    /// Everything on one device, with the programs that hold all models.
    pub whole_bytes: u64,
    /// Checkpoint by checkpoint, the fusion last where there is one.
    pub parts: Vec<PartNeed>,
}

/// A device and what the pipeline wants of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRoom {
    /// As it is shown.
    pub name: String,
    /// Bytes that may be used.
    pub free_bytes: u64,
    /// What the pipeline wants there. Parts are the same, in the same order, for every device.
    pub need: PipelineNeed,
}

/// The name of the part that fuses.
pub const FUSION_PART: &str = "fusion";

/// How a pipeline lies on several devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutKind {
    /// Everything on each.
    Replicas,
    /// Each checkpoint on one.
    Parts,
}

/// What a device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceLayout {
    /// As it is shown.
    pub name: String,
    /// Bytes that may be used.
    pub free_bytes: u64,
    /// Bytes of what it holds.
    pub used_bytes: u64,
    /// Names of its parts.
    pub parts: Vec<&'static str>,
    /// Their models.
    pub model_ids: Vec<ModelId>,
    /// Whether it holds the fusion.
    pub fuses: bool,
}

/// Which device holds what, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How.
    pub kind: LayoutKind,
    /// Most bytes that everything wants on one of the devices.
    pub whole_bytes: u64,
    /// The devices in their order, those without a part too.
    pub devices: Vec<DeviceLayout>,
}

impl PartBytes {
    /// Both on one device.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            own_bytes: self.own_bytes + other.own_bytes,
            arena_bytes: self.arena_bytes.max(other.arena_bytes),
            boundary_bytes: self.boundary_bytes.max(other.boundary_bytes),
            loading_bytes: self.loading_bytes.max(other.loading_bytes),
        }
    }

    /// All of it.
    pub fn total_bytes(self) -> u64 {
        let Self { own_bytes, arena_bytes, boundary_bytes, loading_bytes } = self;
        own_bytes + arena_bytes + boundary_bytes + loading_bytes
    }
}

impl Layout {
    /// Replicas where everything fits every device; else each part on one device, the largest
    /// first, where it leaves the devices most evenly used, or failing that on the first with room.
    ///
    /// # Errors
    /// [`EmbeddingError::NoPlacement`] with the bytes wanted and free.
    ///
    /// # Panics
    /// For no devices, and devices of which one has other parts.
    pub fn plan(rooms: &[DeviceRoom]) -> EmbeddingResult<Self> {
        match rooms.iter().all(|it| it.need.whole_bytes <= it.free_bytes) {
            true => Ok(Self::replicas(rooms)),
            false => Self::parts(rooms),
        }
    }

    /// Everything on each device, whether there is room or not.
    ///
    /// # Panics
    /// As [`Layout::plan`].
    pub fn replicas(rooms: &[DeviceRoom]) -> Self {
        let device = |room: &DeviceRoom| {
            let places = vec![true; room.need.parts.len()];
            DeviceLayout { used_bytes: room.need.whole_bytes, ..held(room, &places) }
        };
        Self {
            kind: LayoutKind::Replicas,
            whole_bytes: whole_bytes(rooms),
            devices: rooms.iter().map(device).collect(),
        }
    }

    /// Each part on one device, also where everything fits each.
    ///
    /// # Errors
    /// As [`Layout::plan`].
    ///
    /// # Panics
    /// As [`Layout::plan`].
    pub fn parts(rooms: &[DeviceRoom]) -> EmbeddingResult<Self> {
        let parts = &rooms[0].need.parts;
        let names = |it: &DeviceRoom| it.need.parts.iter().map(|it| it.name).collect::<Vec<_>>();
        assert!(rooms.iter().all(|it| names(it) == names(&rooms[0])), "the parts are the same");
        let mut order: Vec<usize> = (0..parts.len()).collect();
        let largest =
            |part: &usize| rooms.iter().map(|it| it.need.parts[*part].bytes.total_bytes()).max();
        order.sort_by_key(|part| (std::cmp::Reverse(largest(part)), *part));
        let placed = assign(rooms, &order, Choice::Even)
            .or_else(|_| assign(rooms, &order, Choice::First))
            .map_err(|part| EmbeddingError::NoPlacement {
                part: parts[part].name,
                part_bytes: largest(&part).unwrap_or(0),
                whole_bytes: whole_bytes(rooms),
                free: rooms.iter().map(|it| (it.name.clone(), it.free_bytes)).collect(),
            })?;
        let device = |(at, room): (usize, &DeviceRoom)| {
            let places: Vec<bool> = placed.iter().map(|it| *it == at).collect();
            held(room, &places)
        };
        Ok(Self {
            kind: LayoutKind::Parts,
            whole_bytes: whole_bytes(rooms),
            devices: rooms.iter().enumerate().map(device).collect(),
        })
    }

    /// The device that fuses and holds the models without weights: the one with the fusion, else
    /// the first with a part.
    pub fn lead(&self) -> usize {
        let fusing = self.devices.iter().position(|it| it.fuses);
        let first = || self.devices.iter().position(|it| !it.parts.is_empty());
        fusing.or_else(first).unwrap_or(0)
    }
}

/// Which device takes a part.
#[derive(Clone, Copy)]
enum Choice {
    /// The one that is the least used afterwards, for what it has.
    Even,
    /// The first with room.
    First,
}

/// The device of each part; the first part that finds none.
fn assign(rooms: &[DeviceRoom], order: &[usize], choice: Choice) -> Result<Vec<usize>, usize> {
    let mut held = vec![PartBytes::default(); rooms.len()];
    let mut places = vec![0; order.len()];
    for part in order.iter().copied() {
        let after = |at: usize| held[at].with(rooms[at].need.parts[part].bytes);
        let fits = |at: &usize| after(*at).total_bytes() <= rooms[*at].free_bytes;
        let mut fitting = (0..rooms.len()).filter(fits);
        let chosen = match choice {
            Choice::First => fitting.next(),
            // a / b < c / d as a * d < c * b: exact, and the first of equals.
            Choice::Even => fitting.reduce(|best, at| {
                let share = |it: usize, other: usize| {
                    let used = u128::from(after(it).total_bytes());
                    used * u128::from(rooms[other].free_bytes)
                };
                if share(at, best) < share(best, at) { at } else { best }
            }),
        };
        let at = chosen.ok_or(part)?;
        held[at] = after(at);
        places[part] = at;
    }
    Ok(places)
}

/// A device with some of the parts.
fn held(room: &DeviceRoom, places: &[bool]) -> DeviceLayout {
    let mut bytes = PartBytes::default();
    let (mut parts, mut model_ids) = (Vec::new(), Vec::new());
    for (part, _) in room.need.parts.iter().zip(places).filter(|it| *it.1) {
        bytes = bytes.with(part.bytes);
        parts.push(part.name);
        model_ids.extend(&part.model_ids);
    }
    DeviceLayout {
        name: room.name.clone(),
        free_bytes: room.free_bytes,
        used_bytes: bytes.total_bytes(),
        fuses: parts.contains(&FUSION_PART),
        parts,
        model_ids,
    }
}

fn whole_bytes(rooms: &[DeviceRoom]) -> u64 {
    rooms.iter().map(|it| it.need.whole_bytes).max().unwrap_or(0)
}

/// Bytes for people.
struct Mib(u64);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB", self.0 as f64 / f64::from(1 << 20))
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = Mib(self.whole_bytes);
        let count = self.devices.len();
        match self.kind {
            LayoutKind::Replicas => {
                write!(f, "the same models on each of {count} devices: all want {whole}")?;
                for it in &self.devices {
                    write!(f, ", {} has {} free", it.name, Mib(it.free_bytes))?;
                }
            }
            LayoutKind::Parts => {
                write!(f, "each model on one of {count} devices: all want {whole}")?;
                for it in &self.devices {
                    let held = match it.parts.as_slice() {
                        [] => "nothing".to_owned(),
                        some => some.join(", "),
                    };
                    let (used, free) = (Mib(it.used_bytes), Mib(it.free_bytes));
                    write!(f, "; {} holds {held} ({used} of {free})", it.name)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipeline of checkpoints with so many own bytes, the last of which is the fusion.
    fn rooms(own: &[u64], free: &[u64]) -> Vec<DeviceRoom> {
        const NAMES: [&str; 5] = ["a", "b", "c", "d", FUSION_PART];
        let first = NAMES.len() - own.len();
        let part = |(at, own_bytes): (usize, &u64)| PartNeed {
            name: NAMES[first + at],
            model_ids: Vec::new(),
            bytes: PartBytes { own_bytes: *own_bytes, arena_bytes: 3, ..PartBytes::default() },
        };
        let parts: Vec<PartNeed> = own.iter().enumerate().map(part).collect();
        let whole_bytes = own.iter().sum::<u64>() + 3;
        let room = |(at, free_bytes): (usize, &u64)| DeviceRoom {
            name: format!("{at}:cpu"),
            free_bytes: *free_bytes,
            need: PipelineNeed { whole_bytes, parts: parts.clone() },
        };
        free.iter().enumerate().map(room).collect()
    }

    #[track_caller]
    fn check(own: &[u64], free: &[u64], want: &[&[&str]]) -> Layout {
        let layout = Layout::plan(&rooms(own, free)).unwrap();
        let got: Vec<&[&str]> = layout.devices.iter().map(|it| it.parts.as_slice()).collect();
        assert_eq!(got, want);
        for it in &layout.devices {
            assert!(it.used_bytes <= it.free_bytes, "{it:?}");
        }
        layout
    }

    #[test]
    fn everything_is_on_each_device_where_it_fits_each() {
        let all: &[&str] = &["c", "d", "fusion"];
        let layout = check(&[5, 4, 3], &[15, 99], &[all, all]);
        assert_eq!((layout.kind, layout.whole_bytes), (LayoutKind::Replicas, 15));
        assert!(layout.devices.iter().all(|it| it.used_bytes == 15 && it.fuses));
    }

    #[test]
    fn parts_are_spread_evenly_and_the_same_every_time() {
        let own = [10, 20, 30, 40, 25];
        let want: &[&[&str]] = &[&["b", "d"], &["a", "c", "fusion"]];
        let first = check(&own, &[80, 80], want);
        assert_eq!((first.kind, first.lead()), (LayoutKind::Parts, 1));
        assert_eq!(first.devices[0].used_bytes, 60 + 3, "an arena is there once");
        assert_eq!(check(&own, &[80, 80], want), first);
        // A device with twice the room takes about twice as much.
        check(&own, &[100, 50], &[&["b", "d", "fusion"], &["a", "c"]]);
        // One without room for anything takes nothing.
        check(&own, &[10, 80, 80], &[&[], want[0], want[1]]);
    }

    #[test]
    fn what_fits_only_closely_is_packed() {
        // Evenly, the largest are apart, and the last finds no place.
        check(&[11, 10, 9, 5, 9], &[23, 27], &[&["a", "c"], &["b", "d", "fusion"]]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_bytes() {
        let refused = Layout::plan(&rooms(&[10, 20, 90], &[80, 70])).unwrap_err();
        let want = "`fusion` wants 93 bytes and finds no device: all models want 123 bytes, and \
                    there are free 80 on 0:cpu, 70 on 1:cpu";
        assert_eq!(refused.to_string(), want);
        assert!(Layout::plan(&rooms(&[40, 40, 40], &[80, 70])).is_err(), "together too much");
    }

    #[test]
    fn a_layout_says_why() {
        let mib = 1 << 20;
        let own = [10 * mib, 20 * mib];
        let words = Layout::plan(&rooms(&own, &[24 * mib, 16 * mib])).unwrap().to_string();
        let want = "each model on one of 2 devices: all want 30.0 MiB; 0:cpu holds fusion \
                    (20.0 MiB of 24.0 MiB); 1:cpu holds d (10.0 MiB of 16.0 MiB)";
        assert_eq!(words, want);
        let words = Layout::plan(&rooms(&own, &[64 * mib])).unwrap().to_string();
        let want =
            "the same models on each of 1 devices: all want 30.0 MiB, 0:cpu has 64.0 MiB free";
        assert_eq!(words, want);
    }
}
