//! The form of an artifact: how a kernel is launched, then its machine code.
//!
//! Little-endian, each variable part behind its length. Nothing here is trusted: every length is
//! checked, and the image must be an ELF file that is all there, since the driver takes no length.

use calor_device::DeviceError;

/// What an artifact starts with; the last digit counts formats.
const FORMAT: &[u8; 8] = b"calcud02";

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
    /// Along x as many as there are tiles, at most so many that stay and walk, times `each`.
    Walking {
        /// The tiles.
        tiles: Axis,
        /// Most of them at once.
        most: u32,
        /// Blocks for each.
        each: u32,
    },
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

    fn fits(self, word_count: u32) -> bool {
        self.per != 0 && self.times != 0 && self.word.is_none_or(|word| word < word_count)
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
    /// Whether it divides by nothing and looks at no word that is not there.
    fn divides(self, word_count: u32) -> bool {
        let fits = |it: &[u32; 3]| it.iter().all(|it| *it != 0);
        match self {
            Self::Fixed(grid) => fits(&grid),
            Self::Points { items_per_group, groups_max, extent_count, .. } => {
                items_per_group != 0 && groups_max != 0 && extent_count <= word_count
            }
            Self::Tiles(axes) => axes.iter().all(|it| it.fits(word_count)),
            Self::Walking { tiles, most, each } => tiles.fits(word_count) && most != 0 && each != 0,
        }
    }

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
            Self::Walking { tiles, most, each } => {
                [tiles.blocks(words).min(most).saturating_mul(each), 1, 1]
            }
        }
    }
}

/// A matrix of a buffer as the copy engine sees it: rows of `cols` elements, 128 bytes swizzled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapForm {
    /// Which buffer.
    pub(crate) buffer: u32,
    /// 1 for f16, 2 for bf16, 4 for bytes.
    pub(crate) element: u32,
    /// Elements of a row.
    pub(crate) cols: u32,
    /// Rows: a launch word, or a number.
    pub(crate) rows: Extent,
    /// Elements from row to row.
    pub(crate) stride: Extent,
    /// Elements of a row and rows that are copied at once.
    pub(crate) tile: [u32; 2],
    /// Whether L2 fetches 256 bytes for it.
    pub(crate) promoted: bool,
}

/// A number, or a launch word at its most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// A number.
    Fixed(u32),
    /// A launch word.
    Word(u32),
}

impl Extent {
    /// Its value for these words.
    pub(crate) fn of(self, words: &[i64]) -> u64 {
        match self {
            Self::Fixed(value) => value.into(),
            Self::Word(index) => words.get(index as usize).map_or(0, |it| (*it).max(0) as u64),
        }
    }

    fn pair(self) -> [u32; 2] {
        match self {
            Self::Fixed(value) => [0, value],
            Self::Word(index) => [1, index],
        }
    }

    fn from_pair([kind, value]: [u32; 2], word_count: u32) -> Option<Self> {
        match kind {
            0 => Some(Self::Fixed(value)),
            1 if value < word_count => Some(Self::Word(value)),
            _ => None,
        }
    }
}

/// A kernel of the same text that follows, with the same buffers and words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NextForm {
    /// Name of the function.
    pub(crate) entry: String,
    /// Threads of a block.
    pub(crate) threads: u32,
    /// Blocks of a launch.
    pub(crate) geometry: Geometry,
    /// Dynamic shared memory.
    pub(crate) shared_bytes: u32,
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
    /// What the address of every buffer is a multiple of.
    pub(crate) align_bytes: u32,
    /// Strides among the words, which are multiples of `stride_align` elements.
    pub(crate) stride_words: Vec<u32>,
    /// See `stride_words`.
    pub(crate) stride_align: u32,
    /// Matrices for the copy engine, which follow the rules.
    pub(crate) maps: Vec<MapForm>,
    /// What is launched behind it, in order.
    pub(crate) next: Vec<NextForm>,
    /// The machine code.
    pub(crate) image: Vec<u8>,
}

impl KernelForm {
    /// A kernel of ours before it is compiled, which asks nothing of addresses.
    pub(crate) fn new(entry: &str, threads: u32, geometry: Geometry, words: u32) -> Self {
        Self {
            entry: entry.into(),
            block: [threads, 1, 1],
            geometry,
            shared_bytes: 0,
            cluster: 1,
            dependent: false,
            buffer_count: 0,
            word_count: words,
            live_words: (0..words).collect(),
            align_bytes: 1,
            stride_words: Vec::new(),
            stride_align: 1,
            maps: Vec::new(),
            next: Vec::new(),
            image: Vec::new(),
        }
    }

    /// The artifact's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer(FORMAT.to_vec());
        out.bytes(self.entry.as_bytes());
        self.block.iter().for_each(|it| out.u32(*it));
        out.geometry(self.geometry);
        out.u32(self.shared_bytes);
        out.u32(self.cluster);
        out.u32(u32::from(self.dependent));
        out.u32(self.buffer_count);
        out.u32(self.word_count);
        out.u32(self.live_words.len() as u32);
        self.live_words.iter().for_each(|it| out.u32(*it));
        out.u32(self.align_bytes);
        out.u32(self.stride_align);
        out.u32(self.stride_words.len() as u32);
        self.stride_words.iter().for_each(|it| out.u32(*it));
        out.u32(self.maps.len() as u32);
        for map in &self.maps {
            let MapForm { buffer, element, cols, rows, stride, tile, promoted } = *map;
            let (rows, stride) = (rows.pair(), stride.pair());
            let all = [buffer, element, cols, rows[0], rows[1], stride[0], stride[1]];
            all.iter().chain(&tile).for_each(|it| out.u32(*it));
            out.u32(u32::from(promoted));
        }
        out.u32(self.next.len() as u32);
        for NextForm { entry, threads, geometry, shared_bytes } in &self.next {
            out.bytes(entry.as_bytes());
            out.u32(*threads);
            out.geometry(*geometry);
            out.u32(*shared_bytes);
        }
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
    let geometry = read_geometry(from)?;
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
    let (align_bytes, stride_align) = (from.u32()?, from.u32()?);
    let mut stride_words = Vec::new();
    for _ in 0..from.u32()? {
        stride_words.push(from.u32().filter(|it| *it < word_count)?);
    }
    let maps = read_maps(from, buffer_count, word_count)?;
    let next = read_next(from, word_count)?;
    let image = from.bytes()?.to_vec();
    let fits = |it: &[u32; 3]| it.iter().all(|it| *it != 0);
    let aligns = align_bytes.is_power_of_two() && stride_align != 0;
    (fits(&block) && geometry.divides(word_count) && aligns && cluster != 0).then_some(KernelForm {
        entry,
        block,
        geometry,
        shared_bytes,
        cluster,
        dependent: dependent != 0,
        buffer_count,
        word_count,
        live_words,
        align_bytes,
        stride_words,
        stride_align,
        maps,
        next,
        image,
    })
}

fn read_geometry(from: &mut Reader<'_>) -> Option<Geometry> {
    Some(match from.u32()? {
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
        3 => {
            let [word, per, times] = from.three()?;
            let tiles = Axis { word: (word != u32::MAX).then_some(word), per, times };
            Geometry::Walking { tiles, most: from.u32()?, each: from.u32()? }
        }
        _ => return None,
    })
}

fn read_next(from: &mut Reader<'_>, word_count: u32) -> Option<Vec<NextForm>> {
    let mut next = Vec::new();
    for _ in 0..from.u32()? {
        let entry = String::from_utf8(from.bytes()?.to_vec()).ok()?;
        let threads = from.u32().filter(|it| *it != 0)?;
        let geometry = read_geometry(from).filter(|it| it.divides(word_count))?;
        next.push(NextForm { entry, threads, geometry, shared_bytes: from.u32()? });
    }
    Some(next)
}

fn read_maps(from: &mut Reader<'_>, buffer_count: u32, word_count: u32) -> Option<Vec<MapForm>> {
    let mut maps = Vec::new();
    for _ in 0..from.u32()? {
        let [buffer, element, cols] = from.three()?;
        let rows = Extent::from_pair([from.u32()?, from.u32()?], word_count)?;
        let stride = Extent::from_pair([from.u32()?, from.u32()?], word_count)?;
        let [wide, high, promoted] = from.three()?;
        if buffer_count <= buffer {
            return None;
        }
        let (tile, promoted) = ([wide, high], promoted != 0);
        maps.push(MapForm { buffer, element, cols, rows, stride, tile, promoted });
    }
    Some(maps)
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

    fn geometry(&mut self, geometry: Geometry) {
        match geometry {
            Geometry::Fixed(grid) => {
                self.u32(0);
                grid.iter().for_each(|it| self.u32(*it));
            }
            Geometry::Points { extent_count, items_per_point, items_per_group, groups_max } => {
                self.u32(1);
                let all = [extent_count, items_per_point, items_per_group, groups_max];
                all.iter().for_each(|it| self.u32(*it));
            }
            Geometry::Walking { tiles, most, each } => {
                let all = [3, tiles.word.unwrap_or(u32::MAX), tiles.per, tiles.times, most, each];
                all.iter().for_each(|it| self.u32(*it));
            }
            Geometry::Tiles(axes) => {
                self.u32(2);
                for Axis { word, per, times } in axes {
                    self.u32(word.unwrap_or(u32::MAX));
                    self.u32(per);
                    self.u32(times);
                }
            }
        }
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
            align_bytes: 16,
            stride_words: vec![1, 3],
            stride_align: 8,
            maps: vec![MapForm {
                buffer: 1,
                element: 2,
                cols: 768,
                rows: Extent::Word(0),
                stride: Extent::Fixed(768),
                tile: [64, 128],
                promoted: true,
            }],
            next: vec![NextForm {
                entry: "calor_end".into(),
                threads: 128,
                geometry,
                shared_bytes: 512,
            }],
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
        let walking = Geometry::Walking { tiles: Axis::of(0, 128), most: 132, each: 2 };
        for geometry in [Geometry::Fixed([1, 2, 3]), points, Geometry::Tiles(tiles), walking] {
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
        let walking = Geometry::Walking { tiles: Axis::of(0, 128), most: 5, each: 2 };
        assert_eq!([walking.grid(&[300]), walking.grid(&[3000])], [[6, 1, 1], [10, 1, 1]]);
    }
}
