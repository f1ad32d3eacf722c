//! The form of an artifact: how a kernel is launched, then its machine code.
//!
//! Little-endian, each variable part behind its length. Nothing here is trusted: every length is
//! checked, and the image must be an ELF file that is all there, since the driver takes no length.

use calor_device::DeviceError;

/// What an artifact starts with; the last digit counts formats.
const FORMAT: &[u8; 8] = b"calcud01";

/// How many blocks a launch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Geometry {
    /// Always as many.
    Fixed([u32; 3]),
    /// Along x, enough for the product of the first words times `items_per_point`.
    Points {
        /// How many words are extents.
        extent_count: u32,
        /// Items of work for each outer point.
        items_per_point: u32,
        /// Items that a block does at once.
        items_per_group: u32,
        /// Most blocks.
        groups_max: u32,
    },
    /// Along each axis a word divided by `per`, rounded up, or one; times `times`.
    Tiles([Axis; 3]),
}

/// Blocks along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Which launch word, if any.
    pub(crate) word: Option<u32>,
    /// Rows of a block.
    pub(crate) per: u32,
    /// Blocks for each of those.
    pub(crate) times: u32,
}

impl Axis {
    /// One block.
    pub(crate) const ONE: Self = Self { word: None, per: 1, times: 1 };

    /// Always as many.
    pub(crate) const fn fixed(times: u32) -> Self {
        Self { word: None, per: 1, times }
    }

    /// One block for `per` of a word.
    pub(crate) const fn of(word: u32, per: u32) -> Self {
        Self { word: Some(word), per, times: 1 }
    }

    fn blocks(self, words: &[i64]) -> u32 {
        let tiles = match self.word.and_then(|it| words.get(it as usize)) {
            Some(word) => (*word).max(0).unsigned_abs().div_ceil(u64::from(self.per.max(1))),
            None => 1,
        };
        u32::try_from(tiles.saturating_mul(u64::from(self.times))).unwrap_or(u32::MAX).max(1)
    }
}

impl Geometry {
    /// The grid of a launch with these words.
    pub(crate) fn grid(self, words: &[i64]) -> [u32; 3] {
        match self {
            Self::Fixed(grid) => grid,
            Self::Points { extent_count, items_per_point, items_per_group, groups_max } => {
                let extents = &words[..words.len().min(extent_count as usize)];
                let grid =
                    calor_kernel::Grid::Points { items_per_point, items_per_group, groups_max };
                [grid.groups(extents), 1, 1]
            }
            Self::Tiles(axes) => axes.map(|it| it.blocks(words)),
        }
    }
}

/// A kernel as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelForm {
    /// Name of the function.
    pub(crate) entry: String,
    /// Threads of a block.
    pub(crate) block: [u32; 3],
    /// Blocks of a launch.
    pub(crate) geometry: Geometry,
    /// Dynamic shared memory.
    pub(crate) shared_bytes: u32,
    /// Blocks of a cluster.
    pub(crate) cluster: u32,
    /// Whether it waits itself for the kernel in front of it.
    pub(crate) dependent: bool,
    /// Buffers that it takes.
    pub(crate) buffer_count: u32,
    /// Launch words that it takes.
    pub(crate) word_count: u32,
    /// Which of the words may follow a live count, in the order of their rules.
    pub(crate) live_words: Vec<u32>,
    /// The machine code.
    pub(crate) image: Vec<u8>,
}

impl KernelForm {
    /// The artifact's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer(FORMAT.to_vec());
        out.bytes(self.entry.as_bytes());
        self.block.iter().for_each(|it| out.u32(*it));
        match self.geometry {
            Geometry::Fixed(grid) => {
                out.u32(0);
                grid.iter().for_each(|it| out.u32(*it));
            }
            Geometry::Points { extent_count, items_per_point, items_per_group, groups_max } => {
                out.u32(1);
                let all = [extent_count, items_per_point, items_per_group, groups_max];
                all.iter().for_each(|it| out.u32(*it));
            }
            Geometry::Tiles(axes) => {
                out.u32(2);
                for Axis { word, per, times } in axes {
                    out.u32(word.unwrap_or(u32::MAX));
                    out.u32(per);
                    out.u32(times);
                }
            }
        }
        out.u32(self.shared_bytes);
        out.u32(self.cluster);
        out.u32(u32::from(self.dependent));
        out.u32(self.buffer_count);
        out.u32(self.word_count);
        out.u32(self.live_words.len() as u32);
        self.live_words.iter().for_each(|it| out.u32(*it));
        out.bytes(&self.image);
        out.0
    }

    /// Reads what [`KernelForm::to_bytes`] wrote.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, DeviceError> {
        let damaged = |why: &'static str| DeviceError::Damaged { why };
        let rest = bytes.strip_prefix(FORMAT.as_slice());
        let mut reader = Reader(rest.ok_or(damaged("it does not start with the format"))?);
        let form = read(&mut reader).ok_or(damaged("a length or a number does not fit"))?;
        if !reader.0.is_empty() {
            return Err(damaged("something follows the machine code"));
        }
        if !is_whole_elf(&form.image) {
            return Err(damaged("the machine code is no whole ELF file"));
        }
        Ok(form)
    }
}

fn read(from: &mut Reader<'_>) -> Option<KernelForm> {
    let entry = String::from_utf8(from.bytes()?.to_vec()).ok()?;
    let block = from.three()?;
    let geometry = match from.u32()? {
        0 => Geometry::Fixed(from.three()?),
        1 => Geometry::Points {
            extent_count: from.u32()?,
            items_per_point: from.u32()?,
            items_per_group: from.u32()?,
            groups_max: from.u32()?,
        },
        2 => {
            let mut axes = [Axis::ONE; 3];
            for axis in &mut axes {
                let [word, per, times] = from.three()?;
                *axis = Axis { word: (word != u32::MAX).then_some(word), per, times };
            }
            Geometry::Tiles(axes)
        }
        _ => return None,
    };
    let [shared_bytes, cluster, dependent] = from.three()?;
    let [buffer_count, word_count, live_count] = from.three()?;
    let mut live_words = Vec::new();
    for _ in 0..live_count {
        let word = from.u32()?;
        if word_count <= word {
            return None;
        }
        live_words.push(word);
    }
    let image = from.bytes()?.to_vec();
    let fits = |it: &[u32; 3]| it.iter().all(|it| *it != 0);
    let divides = match geometry {
        Geometry::Fixed(grid) => fits(&grid),
        Geometry::Points { items_per_group, groups_max, extent_count, .. } => {
            items_per_group != 0 && groups_max != 0 && extent_count <= word_count
        }
        Geometry::Tiles(axes) => axes
            .iter()
            .all(|it| it.per != 0 && it.times != 0 && it.word.is_none_or(|word| word < word_count)),
    };
    (fits(&block) && divides && cluster != 0).then_some(KernelForm {
        entry,
        block,
        geometry,
        shared_bytes,
        cluster,
        dependent: dependent != 0,
        buffer_count,
        word_count,
        live_words,
        image,
    })
}

/// Whether the headers of a 64-bit little-endian ELF file, and what its section table names, lie
/// inside the bytes.
fn is_whole_elf(image: &[u8]) -> bool {
    let word = |at: usize, len: usize| -> Option<u64> {
        let bytes = image.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0, |sum, it| sum << 8 | u64::from(*it)))
    };
    let table = |at: Option<u64>, size: Option<u64>, count: Option<u64>| {
        let (Some(at), Some(size), Some(count)) = (at, size, count) else { return false };
        let end = size.checked_mul(count).and_then(|it| it.checked_add(at));
        end.is_some_and(|end| end <= image.len() as u64)
    };
    if image.get(..6) != Some(&[0x7f, b'E', b'L', b'F', 2, 1]) {
        return false;
    }
    let (sections, size, count) = (word(40, 8), word(58, 2), word(60, 2));
    if !table(word(32, 8), word(54, 2), word(56, 2)) || !table(sections, size, count) {
        return false;
    }
    let (Some(sections), Some(size), Some(count)) = (sections, size, count) else { return false };
    (0..count).all(|index| {
        let at = (sections + index * size) as usize;
        // Type 8 has a size but no bytes in the file.
        let has_bytes = word(at + 4, 4) != Some(8);
        !has_bytes || table(word(at + 24, 8), word(at + 32, 8), Some(1))
    })
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend((bytes.len() as u64).to_le_bytes());
        self.0.extend(bytes);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn u32(&mut self) -> Option<u32> {
        let (word, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*word))
    }

    fn three(&mut self) -> Option<[u32; 3]> {
        Some([self.u32()?, self.u32()?, self.u32()?])
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk::<8>()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
        let (bytes, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest image that passes: an ELF header without tables.
    fn image() -> Vec<u8> {
        let mut image = vec![0; 64];
        image[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        image
    }

    fn form(geometry: Geometry) -> KernelForm {
        KernelForm {
            entry: "calor_row".into(),
            block: [256, 1, 1],
            geometry,
            shared_bytes: 1024,
            cluster: 1,
            dependent: true,
            buffer_count: 3,
            word_count: 4,
            live_words: vec![0, 2],
            image: image(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let tiles = [Axis::of(1, 64), Axis::fixed(12), Axis::ONE];
        let points = Geometry::Points {
            extent_count: 2,
            items_per_point: 3,
            items_per_group: 8,
            groups_max: 99,
        };
        for geometry in [Geometry::Fixed([1, 2, 3]), points, Geometry::Tiles(tiles)] {
            let form = form(geometry);
            assert_eq!(KernelForm::from_bytes(&form.to_bytes()).unwrap(), form);
        }
    }

    #[test]
    fn what_is_cut_or_longer_is_refused() {
        let bytes = form(Geometry::Fixed([1, 1, 1])).to_bytes();
        for len in 0..bytes.len() {
            assert!(KernelForm::from_bytes(&bytes[..len]).is_err(), "{len}");
        }
        assert!(KernelForm::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_section_past_the_end_is_refused() {
        let mut cut = form(Geometry::Fixed([1, 1, 1]));
        cut.image[40..48].copy_from_slice(&64_u64.to_le_bytes());
        cut.image[58..60].copy_from_slice(&64_u16.to_le_bytes());
        cut.image[60..62].copy_from_slice(&1_u16.to_le_bytes());
        assert!(KernelForm::from_bytes(&cut.to_bytes()).is_err());
        cut.image.resize(128, 0);
        KernelForm::from_bytes(&cut.to_bytes()).unwrap();
        cut.image[64 + 24..64 + 32].copy_from_slice(&100_u64.to_le_bytes());
        cut.image[64 + 32..64 + 40].copy_from_slice(&29_u64.to_le_bytes());
        assert!(KernelForm::from_bytes(&cut.to_bytes()).is_err());
    }

    #[test]
    fn grids_follow_words() {
        let tiles = Geometry::Tiles([Axis::of(0, 64), Axis::fixed(12), Axis::ONE]);
        assert_eq!(tiles.grid(&[65]), [2, 12, 1]);
        assert_eq!(tiles.grid(&[0]), [1, 12, 1]);
        let points = Geometry::Points {
            extent_count: 1,
            items_per_point: 2,
            items_per_group: 8,
            groups_max: 3,
        };
        assert_eq!(points.grid(&[8, 1000]), [2, 1, 1]);
        assert_eq!(points.grid(&[800]), [3, 1, 1]);
    }
}
