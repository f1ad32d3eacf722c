//! E9: the characters of a text as one vector of 10,240 bits, and its 1,024 numbers.
//!
//! Random vectors come from a counter, so any bit can be made alone and every machine agrees.
//! The majority is counted in bit slices: word `w` of the counters' bit `b` holds bit `b` of 64
//! counters, and carry-save adders take in eight votes at a time.

use std::collections::HashMap;

use crate::embedding::normalize_l2;
use crate::error::{EmbeddingError, EmbeddingResult};

/// Bits of a hypervector.
pub const HDC_BIT_COUNT: usize = 10_240;

/// Elements of the embedding.
pub const HDC_LEN: usize = 1_024;

/// Characters that are looked at; the rest of a text is of no effect.
pub const HDC_CHARACTERS_MAX: usize = 4_096;

/// Bump when the generator, the encoding or a constant changes.
pub const HDC_VERSION: u16 = 1;

/// The seed when nobody names one.
pub const HDC_SEED_DEFAULT: u64 = 42;

const WORD_COUNT: usize = HDC_BIT_COUNT / 64;
const BLOCK_WORDS: usize = 8;
const BLOCK_COUNT: usize = WORD_COUNT / BLOCK_WORDS;
const POSITION_COUNT: usize = 512;
const GRAM_LEN_MAX: usize = 8;
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Sixty-four counters' worth of one bit, eight times: what fits wide registers.
type Block = [u64; BLOCK_WORDS];

/// 10,240 bits. Bit `b` is bit `b % 64` of word `b / 64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hypervector([u64; WORD_COUNT]);

impl Hypervector {
    /// No bit set.
    pub const ZERO: Self = Self([0; WORD_COUNT]);

    /// The random vector of a seed, a kind and an id: word `w` is
    /// `mix(mix(seed + G (4 id + kind + 1)) + G (w + 1))`.
    fn random(seed: u64, kind: Kind, id: u64) -> Self {
        let key = vector_key(seed, kind, id);
        let mut out = Self::ZERO;
        for (block, words) in out.0.as_chunks_mut::<BLOCK_WORDS>().0.iter_mut().enumerate() {
            *words = random_block(key, block);
        }
        out
    }

    /// The 160 words.
    pub fn words(&self) -> &[u64; WORD_COUNT] {
        &self.0
    }

    /// Bit by bit exclusive or: commutative, and its own inverse.
    pub fn bind(&self, other: &Self) -> Self {
        let mut out = self.clone();
        for (word, it) in out.0.iter_mut().zip(&other.0) {
            *word ^= it;
        }
        out
    }

    /// Rotation: bit `b` moves to bit `b + shift`, around the end.
    pub fn permute(&self, shift: usize) -> Self {
        let shift = shift % HDC_BIT_COUNT;
        let (word_shift, bit_shift) = (shift / 64, shift % 64);
        let mut out = Self::ZERO;
        for (index, word) in out.0.iter_mut().enumerate() {
            let high = self.0[(index + WORD_COUNT - word_shift) % WORD_COUNT];
            let low = self.0[(index + 2 * WORD_COUNT - word_shift - 1) % WORD_COUNT];
            *word = if bit_shift == 0 { high } else { high << bit_shift | low >> (64 - bit_shift) };
        }
        out
    }

    /// Bit by bit majority; a tie gives 0. Nothing bundled is [`Hypervector::ZERO`].
    pub fn bundle<'a>(vectors: impl IntoIterator<Item = &'a Self>) -> Self {
        let vectors: Vec<&Self> = vectors.into_iter().collect();
        majority(|block, votes| votes.extend(vectors.iter().map(|it| it.block(block))))
    }

    /// Bits that differ, 0 to 10,240.
    pub fn hamming_distance(&self, other: &Self) -> u32 {
        self.0.iter().zip(&other.0).map(|(a, b)| (a ^ b).count_ones()).sum()
    }

    /// 1 − distance / 10,240: 1 for equal, about 0.5 for unrelated vectors.
    pub fn similarity(&self, other: &Self) -> f64 {
        1.0 - f64::from(self.hamming_distance(other)) / HDC_BIT_COUNT as f64
    }

    /// The slot vector: ten bits an element, their ones from −1 to 1, scaled to norm 1.
    pub fn project(&self) -> [f32; HDC_LEN] {
        let mut out = [0.0; HDC_LEN];
        for (index, it) in out.iter_mut().enumerate() {
            let (word, bit) = (10 * index / 64, 10 * index % 64);
            let mut bits = self.0[word] >> bit;
            if 54 < bit {
                bits |= self.0[word + 1] << (64 - bit);
            }
            *it = (bits & 0x3FF).count_ones() as f32 / 5.0 - 1.0;
        }
        normalize_l2(&mut out);
        out
    }

    fn block(&self, index: usize) -> &Block {
        &self.0.as_chunks::<BLOCK_WORDS>().0[index]
    }
}

/// How characters are tied to their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HdcMode {
    /// Each character bound to its position modulo 512. Sensitive to shifts.
    Positional,
    /// Each run of `gram_len` characters, permuted by place in the run. Tolerant of shifts.
    Grams {
        /// Characters of a run; 3 is usual.
        gram_len: usize,
    },
}

/// Encodes texts under one seed.
#[derive(Clone, Debug)]
pub struct HdcEncoder {
    seed: u64,
    mode: HdcMode,
    positions: Slices,
    tie: Hypervector,
}

impl HdcEncoder {
    /// Makes the position vectors (640 KiB) once.
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] for runs of no or over eight characters.
    pub fn new(seed: u64, mode: HdcMode) -> EmbeddingResult<Self> {
        let position = |id| Hypervector::random(seed, Kind::Position, id as u64);
        let positions = match mode {
            HdcMode::Positional => Slices::of(POSITION_COUNT, position),
            HdcMode::Grams { gram_len: 1..=GRAM_LEN_MAX } => Slices::of(0, position),
            HdcMode::Grams { gram_len } => {
                return Err(EmbeddingError::ConfigError {
                    field: "gram_len",
                    value: gram_len.to_string(),
                    want: "it must be within 1..=8",
                });
            }
        };
        let tie = Hypervector::random(seed, Kind::Tie, 0);
        Ok(Self { seed, mode, positions, tie })
    }

    /// The vector of a character alone.
    pub fn character(&self, character: char) -> Hypervector {
        Hypervector::random(self.seed, Kind::Character, u64::from(character))
    }

    /// The majority of the first 4,096 characters' bound vectors. An even number of votes is
    /// made odd by the tie vector, for a tie that always gives 0 makes short texts alike.
    ///
    /// # Errors
    /// [`EmbeddingError::EmptyInput`]; whitespace is content.
    pub fn encode_string(&self, text: &str) -> EmbeddingResult<Hypervector> {
        let alphabet = &Alphabet::of(text);
        if alphabet.places.is_empty() {
            return Err(EmbeddingError::EmptyInput { what: "text" });
        }
        Ok(match self.mode {
            HdcMode::Positional => {
                // Eight words of each character at a time: a text of many characters would
                // otherwise fill megabytes.
                let key = |it: &char| vector_key(self.seed, Kind::Character, u64::from(*it));
                let keys: Vec<u64> = alphabet.characters.iter().map(key).collect();
                let mut vectors: Vec<Block> = Vec::new();
                self.majority_with_tie(|block, votes| {
                    vectors.clear();
                    vectors.extend(keys.iter().map(|it| random_block(*it, block)));
                    let positions = self.positions.block(block).iter().cycle();
                    let places = alphabet.places.iter();
                    votes.extend(
                        places
                            .zip(positions)
                            .map(|(place, position)| xor(&vectors[usize::from(*place)], position)),
                    );
                })
            }
            HdcMode::Grams { gram_len } => self.bundle_grams(alphabet, gram_len),
        })
    }

    /// [`HdcEncoder::encode_string`] and [`Hypervector::project`].
    ///
    /// # Errors
    /// [`EmbeddingError::EmptyInput`].
    pub fn embed(&self, text: &str) -> EmbeddingResult<[f32; HDC_LEN]> {
        Ok(self.encode_string(text)?.project())
    }

    /// A text shorter than a run is one run.
    fn bundle_grams(&self, alphabet: &Alphabet, gram_len: usize) -> Hypervector {
        let places = &alphabet.places;
        let gram_len = gram_len.min(places.len());
        let permuted: Vec<Slices> = (0..gram_len)
            .map(|place| {
                Slices::of(alphabet.characters.len(), |index| {
                    self.character(alphabet.characters[index]).permute(place)
                })
            })
            .collect();
        self.majority_with_tie(|block, votes| {
            votes.extend(places.windows(gram_len).map(|gram| {
                let vectors = gram.iter().zip(&permuted);
                vectors.fold([0; BLOCK_WORDS], |out, (place, vectors)| {
                    xor(&out, &vectors.block(block)[usize::from(*place)])
                })
            }));
        })
    }

    /// [`majority`], with the tie vector as one more vote where their number is even.
    fn majority_with_tie(&self, mut fill: impl FnMut(usize, &mut Vec<Block>)) -> Hypervector {
        majority(|block, votes| {
            fill(block, votes);
            if votes.len().is_multiple_of(2) {
                votes.push(*self.tie.block(block));
            }
        })
    }
}

/// Many vectors, block by block: the first eight words of each, then the next eight of each. What
/// a majority reads lies together.
#[derive(Clone, Debug)]
struct Slices {
    blocks: Vec<Block>,
    count: usize,
}

impl Slices {
    fn of(count: usize, vector: impl Fn(usize) -> Hypervector) -> Self {
        let mut blocks = vec![[0; BLOCK_WORDS]; count * BLOCK_COUNT];
        for index in 0..count {
            let vector = vector(index);
            for block in 0..BLOCK_COUNT {
                blocks[block * count + index] = *vector.block(block);
            }
        }
        Self { blocks, count }
    }

    fn block(&self, index: usize) -> &[Block] {
        &self.blocks[index * self.count..][..self.count]
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Character = 0,
    Position = 1,
    Tie = 2,
}

/// The distinct characters of a text and which of them stands where.
struct Alphabet {
    characters: Vec<char>,
    places: Vec<u16>,
}

impl Alphabet {
    fn of(text: &str) -> Self {
        const NONE: u16 = u16::MAX;
        const _: () = assert!(HDC_CHARACTERS_MAX < NONE as usize);
        let mut ascii = [NONE; 128];
        let mut others: HashMap<char, u16> = HashMap::new();
        let mut out = Self { characters: Vec::new(), places: Vec::new() };
        for character in text.chars().take(HDC_CHARACTERS_MAX) {
            let slot = match ascii.get_mut(character as usize) {
                Some(it) => it,
                None => others.entry(character).or_insert(NONE),
            };
            if *slot == NONE {
                *slot = out.characters.len() as u16;
                out.characters.push(character);
            }
            out.places.push(*slot);
        }
        out
    }
}

/// Bit by bit: whether more than half of the votes are 1. `fill(block, votes)` appends the eight
/// words of that block of every vote.
fn majority(mut fill: impl FnMut(usize, &mut Vec<Block>)) -> Hypervector {
    let mut out = Hypervector::ZERO;
    let mut votes: Vec<Block> = Vec::new();
    for (block, words) in out.0.as_chunks_mut::<BLOCK_WORDS>().0.iter_mut().enumerate() {
        votes.clear();
        fill(block, &mut votes);
        let mut counters = Counters::new(votes.len());
        let (eights, rest) = votes.as_chunks::<8>();
        for it in eights {
            counters.add_eight(it);
        }
        for it in rest {
            counters.add(*it, 0);
        }
        *words = counters.at_least(votes.len() / 2 + 1);
    }
    out
}

/// 512 counters in bit slices: `planes[b]` holds bit `b` of each.
struct Counters {
    planes: [Block; Self::PLANES_MAX],
    plane_count: usize,
}

impl Counters {
    const PLANES_MAX: usize = 48;

    /// Counters that hold numbers up to `count_max`.
    fn new(count_max: usize) -> Self {
        let plane_count = (usize::BITS - count_max.leading_zeros()) as usize;
        assert!(plane_count <= Self::PLANES_MAX);
        Self { planes: [[0; BLOCK_WORDS]; Self::PLANES_MAX], plane_count: plane_count.max(4) }
    }

    /// Adds 2^`from` where `carry` has a bit.
    fn add(&mut self, mut carry: Block, from: usize) {
        for plane in &mut self.planes[from..self.plane_count] {
            let mut any = 0;
            for (plane, carry) in plane.iter_mut().zip(&mut carry) {
                let sum = *plane ^ *carry;
                *carry &= *plane;
                *plane = sum;
                any |= *carry;
            }
            if any == 0 {
                return;
            }
        }
    }

    /// Adds eight votes with seven full adders; only the eights ripple.
    #[inline]
    fn add_eight(&mut self, v: &[Block; 8]) {
        let [ones, twos, fours, ..] = &mut self.planes;
        let twos_a = full_add(ones, &v[0], &v[1]);
        let twos_b = full_add(ones, &v[2], &v[3]);
        let fours_a = full_add(twos, &twos_a, &twos_b);
        let twos_a = full_add(ones, &v[4], &v[5]);
        let twos_b = full_add(ones, &v[6], &v[7]);
        let fours_b = full_add(twos, &twos_a, &twos_b);
        let eights = full_add(fours, &fours_a, &fours_b);
        self.add(eights, 3);
    }

    /// Where the counter is `threshold` or more.
    fn at_least(&self, threshold: usize) -> Block {
        let mut above = [0; BLOCK_WORDS];
        let mut equal = [u64::MAX; BLOCK_WORDS];
        for (bit, plane) in self.planes[..self.plane_count].iter().enumerate().rev() {
            for (index, it) in plane.iter().enumerate() {
                if threshold >> bit & 1 == 1 {
                    equal[index] &= it;
                } else {
                    above[index] |= equal[index] & it;
                    equal[index] &= !it;
                }
            }
        }
        std::array::from_fn(|index| above[index] | equal[index])
    }
}

/// `sum` becomes the low bit of `sum + a + b`; the high bit comes back.
#[inline]
fn full_add(sum: &mut Block, a: &Block, b: &Block) -> Block {
    let mut carry = [0; BLOCK_WORDS];
    for index in 0..BLOCK_WORDS {
        let odd = sum[index] ^ a[index];
        carry[index] = sum[index] & a[index] | odd & b[index];
        sum[index] = odd ^ b[index];
    }
    carry
}

#[inline]
fn xor(a: &Block, b: &Block) -> Block {
    std::array::from_fn(|index| a[index] ^ b[index])
}

fn vector_key(seed: u64, kind: Kind, id: u64) -> u64 {
    let serial = id.wrapping_mul(4).wrapping_add(kind as u64 + 1);
    mix(seed.wrapping_add(GOLDEN.wrapping_mul(serial)))
}

fn random_block(key: u64, block: usize) -> Block {
    let word = |index| (block * BLOCK_WORDS + index) as u64 + 1;
    std::array::from_fn(|index| mix(key.wrapping_add(GOLDEN.wrapping_mul(word(index)))))
}

fn mix(mut z: u64) -> u64 {
    z ^= z >> 30;
    z = z.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^= z >> 27;
    z = z.wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedding::cosine;

    fn encoder() -> HdcEncoder {
        HdcEncoder::new(HDC_SEED_DEFAULT, HdcMode::Positional).unwrap()
    }

    /// First word, last word and number of ones, from an independent bit-by-bit program.
    #[track_caller]
    fn check_bits(text: &str, first: u64, last: u64, one_count: u32) {
        let got = encoder().encode_string(text).unwrap();
        let ones = got.words().iter().map(|it| it.count_ones()).sum::<u32>();
        assert_eq!((got.words()[0], got.words()[159], ones), (first, last, one_count), "`{text}`");
    }

    #[test]
    fn bits_are_pinned() {
        check_bits("a", 0xCE5F_0928_3473_5BDF, 0x637C_E4B2_855D_3B26, 5075);
        check_bits("ab", 0xC85B_A168_5067_594F, 0xE95A_A09B_ADFD_17B0, 5040);
        check_bits("hello world", 0x5FD2_A08A_572F_17D1, 0x2BFE_B11D_956E_29EE, 5089);
        let fox = "The quick brown fox jumps over the lazy dog. ";
        check_bits(fox, 0x331D_9E21_2D4F_ABE9, 0x5EA8_58E8_677A_1380, 5164);
        check_bits("é🦀x", 0xBBFC_9346_D0F5_8D6F, 0x0320_0622_9AD6_54A7, 5069);
    }

    #[test]
    fn unrelated_vectors_are_half_apart() {
        let characters = (32..127).map(|id| Hypervector::random(42, Kind::Character, id));
        let positions = (0..512).map(|id| Hypervector::random(42, Kind::Position, id));
        let all: Vec<Hypervector> = characters.chain(positions).collect();
        let mut worst = 0;
        for (index, a) in all.iter().enumerate() {
            assert_eq!(a.hamming_distance(a), 0);
            for b in &all[..index] {
                worst = worst.max(a.hamming_distance(b).abs_diff(5120));
            }
        }
        assert_eq!((all.len(), worst), (607, 238));
    }

    #[test]
    fn operations_keep_their_laws() {
        let e9 = encoder();
        let [a, b, c] = ['a', 'b', 'c'].map(|it| e9.character(it));
        assert_eq!(a.bind(&b), b.bind(&a));
        assert_eq!(a.bind(&b).bind(&b), a);
        assert_eq!(a.bind(&a), Hypervector::ZERO);
        assert_eq!(Hypervector::bundle([&a]), a);
        assert_eq!(Hypervector::bundle([&a, &a, &b]), a);
        assert_eq!(Hypervector::bundle([]), Hypervector::ZERO);
        let tie = Hypervector::bundle([&a, &b]);
        let odd = Hypervector::bundle([&a, &b, &c]);
        for word in 0..WORD_COUNT {
            let (a, b, c) = (a.0[word], b.0[word], c.0[word]);
            assert_eq!(tie.0[word], a & b);
            assert_eq!(odd.0[word], a & b | a & c | b & c);
        }
        assert_eq!(a.similarity(&a), 1.0);
        for shift in [0, 1, 63, 64, 65, 5_000, HDC_BIT_COUNT] {
            let there = a.permute(shift);
            assert_eq!(there.permute(HDC_BIT_COUNT - shift % HDC_BIT_COUNT), a, "{shift}");
            let bit = |v: &Hypervector, at: usize| v.0[at / 64] >> (at % 64) & 1;
            for at in [0, 1, 63, 64, 10_239] {
                assert_eq!(bit(&there, (at + shift) % HDC_BIT_COUNT), bit(&a, at), "{shift}");
            }
        }
    }

    #[test]
    fn counting_agrees_with_counting_bits() {
        let e9 = encoder();
        let all: Vec<Hypervector> =
            (0..300_u32).map(|it| e9.character(char::from_u32(it + 32).unwrap())).collect();
        for count in [2, 7, 8, 9, 16, 31, 64, 255, 256, 300] {
            let got = Hypervector::bundle(&all[..count]);
            for bit in (0..HDC_BIT_COUNT).step_by(41) {
                let at = |v: &Hypervector| (v.0[bit / 64] >> (bit % 64) & 1) as usize;
                let ones: usize = all[..count].iter().map(at).sum();
                assert_eq!(at(&got) == 1, count < 2 * ones, "bit {bit} of {count}");
            }
        }
    }

    #[track_caller]
    fn check_unrelated(a: &str, b: &str) {
        let e9 = encoder();
        let got = cosine(&e9.embed(a).unwrap(), &e9.embed(b).unwrap());
        assert!(got.abs() < 0.2, "`{a}` and `{b}`: {got}");
    }

    #[test]
    fn unrelated_texts_of_even_length_are_unrelated() {
        check_unrelated("abcdefgh", "qrstuvwx");
        check_unrelated("0123456789", "klmnopqrst");
        check_unrelated("the kiln must be hot", "UNRELATED: 42 apples");
    }

    #[test]
    fn related_texts_by_mode() {
        let grams = HdcEncoder::new(42, HdcMode::Grams { gram_len: 3 }).unwrap();
        let cosine_of = |e9: &HdcEncoder, a: &str, b: &str| {
            cosine(&e9.embed(a).unwrap(), &e9.embed(b).unwrap())
        };
        let text = "the kiln must be hot before clay 7";
        let changed = "the kiln must be hot beforX clay 7";
        let shifted = "> the kiln must be hot before clay 7";
        assert!(0.8 < cosine_of(&encoder(), text, changed));
        assert!(cosine_of(&encoder(), text, shifted) < 0.2);
        assert!(0.8 < cosine_of(&grams, text, shifted));
        assert!(cosine_of(&grams, text, "an unrelated sentence of such size").abs() < 0.2);
        assert!(grams.embed("a").is_ok() && grams.embed("ab").is_ok());
        assert!(HdcEncoder::new(42, HdcMode::Grams { gram_len: 0 }).is_err());
        assert!(HdcEncoder::new(42, HdcMode::Grams { gram_len: 9 }).is_err());
    }

    #[test]
    fn whitespace_is_content_and_nothing_is_not() {
        let e9 = encoder();
        assert!(matches!(e9.embed(""), Err(EmbeddingError::EmptyInput { .. })));
        assert_ne!(e9.encode_string(" ").unwrap(), e9.encode_string("\n").unwrap());
        let long: String = "abcdefg ".repeat(600);
        let cut: String = long.chars().take(HDC_CHARACTERS_MAX).collect();
        assert_eq!(e9.encode_string(&long).unwrap(), e9.encode_string(&cut).unwrap());
        let norm = crate::embedding::l2_norm(&e9.embed("abc").unwrap());
        assert!((norm - 1.0).abs() < 1e-6);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the budget of this embedder is a time")]
    fn full_length_texts_stay_within_the_budget() {
        let budget_us = if cfg!(debug_assertions) { 30_000 } else { 1_000 };
        let e9 = encoder();
        let prose = "The quick brown fox jumps over the lazy dog. ".repeat(100);
        let distinct: String = (0..4_096).map(|it| char::from_u32(0x4E00 + it).unwrap()).collect();
        for (name, text) in [("prose", prose), ("all different", distinct)] {
            let best_us = (0..30)
                .map(|_| {
                    let start = std::time::Instant::now();
                    std::hint::black_box(e9.embed(std::hint::black_box(&text)).unwrap());
                    start.elapsed().as_micros()
                })
                .min()
                .unwrap();
            println!("{name}: {best_us} us");
            // Making 4,096 character vectors costs as much again as counting them.
            let budget_us = if name == "prose" { budget_us } else { 4 * budget_us };
            assert!(best_us < budget_us, "{name}: {best_us} us");
        }
    }
}
