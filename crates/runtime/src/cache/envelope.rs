//! One artifact as the bytes of a file: what it is, for whom, from what, and a digest over all.
//!
//! The only author of this form. Little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | magic |
//! | 2 | format version |
//! | 2 | kind |
//! | 4 | bytes before the payload |
//! | 8 | bytes of the payload |
//! | 32 | digest of what it is made from |
//! | 3 × (4 + n) | target, producer, label |
//! | 32 | BLAKE3 of everything before it and of the payload |
//! | n | the payload |

use calor_device::{ArtifactKey, ArtifactKind};
use calor_kernel::Digest;
use thiserror::Error;

/// Version of this form. It is part of the folder's name too.
pub(super) const FORMAT: u16 = 1;
const MAGIC: &[u8; 8] = b"calrart\n";
/// Bytes up to the end of the kind.
pub(super) const KIND_END: usize = 12;
const FIXED_LEN: usize = 8 + 2 + 2 + 4 + 8 + 32;
const DIGEST_LEN: usize = 32;
/// Longest target, producer or label.
const TEXT_LEN_MAX: usize = 4096;

/// An artifact that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Everything that decides the payload.
    pub key: ArtifactKey,
    /// The artifact's bytes.
    pub payload: &'a [u8],
}

/// What is wrong with bytes that should be an entry or a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Flaw {
    /// It ends early.
    #[error("it is cut off")]
    CutOff,
    /// It is something else.
    #[error("it does not start as it should")]
    Magic,
    /// Another version of the format.
    #[error("it has format {found}, this build has {FORMAT}")]
    Format {
        /// The version found.
        found: u16,
    },
    /// Lengths do not fit together.
    #[error("its lengths do not fit together")]
    Lengths,
    /// Bytes were changed.
    #[error("its digest is wrong")]
    Digest,
    /// Whole, of a kind that this build does not know.
    #[error("its kind is unknown")]
    Kind,
    /// Whole, under the name of another entry.
    #[error("it is another entry than its name says")]
    Misplaced,
    /// It is larger than anything that is kept.
    #[error("it is too large")]
    TooLarge,
}

impl Flaw {
    /// Whether the bytes are damaged, and not merely meant for somebody else.
    pub fn is_damage(self) -> bool {
        match self {
            Self::Format { .. } | Self::Kind => false,
            Self::CutOff
            | Self::Magic
            | Self::Lengths
            | Self::Digest
            | Self::Misplaced
            | Self::TooLarge => true,
        }
    }
}

/// The bytes of an entry; none when its target or producer is longer than the form allows.
pub(super) fn encode(key: &ArtifactKey, payload: &[u8]) -> Option<Vec<u8>> {
    let ArtifactKey { kind, target, producer, body, label } = key;
    if TEXT_LEN_MAX < target.len() || TEXT_LEN_MAX < producer.len() {
        return None;
    }
    let label = &label[..label.floor_char_boundary(TEXT_LEN_MAX)];
    let texts = [target.as_str(), producer.as_str(), label];
    let text_len: usize = texts.iter().map(|it| 4 + it.len()).sum();
    let header_len = FIXED_LEN + text_len + DIGEST_LEN;
    let mut out = Vec::with_capacity(header_len + payload.len());
    out.extend(MAGIC);
    out.extend(FORMAT.to_le_bytes());
    out.extend(word_of(*kind).to_le_bytes());
    out.extend((header_len as u32).to_le_bytes());
    out.extend((payload.len() as u64).to_le_bytes());
    out.extend(body.0);
    for text in texts {
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    }
    let digest = digest(&out, payload);
    out.extend(digest);
    out.extend(payload);
    Some(out)
}

/// Reads an entry back. Nothing of it is believed before its digest is right.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<Envelope<'_>, Flaw> {
    let mut rest = bytes;
    let magic = take(&mut rest, MAGIC.len())?;
    if magic != MAGIC {
        return Err(Flaw::Magic);
    }
    let found = u16::from_le_bytes(fixed(&mut rest)?);
    if found != FORMAT {
        return Err(Flaw::Format { found });
    }
    let kind = u16::from_le_bytes(fixed(&mut rest)?);
    let header_len = u32::from_le_bytes(fixed(&mut rest)?) as usize;
    let payload_len = u64::from_le_bytes(fixed(&mut rest)?);
    let body = Digest(fixed(&mut rest)?);
    if header_len < FIXED_LEN + DIGEST_LEN {
        return Err(Flaw::Lengths);
    }
    match (header_len as u64).checked_add(payload_len) {
        Some(whole) if whole == bytes.len() as u64 => {}
        Some(whole) if (bytes.len() as u64) < whole => return Err(Flaw::CutOff),
        Some(_) | None => return Err(Flaw::Lengths),
    }
    let (header, payload) = bytes.split_at(header_len);
    let (covered, stored) = header.split_at(header_len - DIGEST_LEN);
    if digest(covered, payload) != stored {
        return Err(Flaw::Digest);
    }
    let mut rest = &covered[FIXED_LEN..];
    let target = text(&mut rest)?;
    let producer = text(&mut rest)?;
    let label = text(&mut rest)?;
    if !rest.is_empty() {
        return Err(Flaw::Lengths);
    }
    let kind = kind_of(kind).ok_or(Flaw::Kind)?;
    Ok(Envelope { key: ArtifactKey { kind, target, producer, body, label }, payload })
}

fn digest(covered: &[u8], payload: &[u8]) -> [u8; DIGEST_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(covered).update(payload);
    *hasher.finalize().as_bytes()
}

/// The kind that the first bytes of an entry name, unverified.
pub(super) fn kind_at(start: &[u8; KIND_END]) -> Option<ArtifactKind> {
    kind_of(u16::from_le_bytes([start[KIND_END - 2], start[KIND_END - 1]]))
}

fn word_of(kind: ArtifactKind) -> u16 {
    match kind {
        ArtifactKind::Kernel => 1,
        ArtifactKind::Algorithm => 2,
    }
}

fn kind_of(word: u16) -> Option<ArtifactKind> {
    let kinds = [ArtifactKind::Kernel, ArtifactKind::Algorithm];
    kinds.into_iter().find(|it| word_of(*it) == word)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Flaw> {
    let (taken, left) = rest.split_at_checked(len).ok_or(Flaw::CutOff)?;
    *rest = left;
    Ok(taken)
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Flaw> {
    take(rest, N)?.try_into().map_err(|_| Flaw::CutOff)
}

fn text(rest: &mut &[u8]) -> Result<String, Flaw> {
    let len = u32::from_le_bytes(fixed(rest).map_err(|_| Flaw::Lengths)?) as usize;
    if TEXT_LEN_MAX < len {
        return Err(Flaw::Lengths);
    }
    let bytes = take(rest, len).map_err(|_| Flaw::Lengths)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| Flaw::Lengths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(label: &str) -> ArtifactKey {
        ArtifactKey {
            kind: ArtifactKind::Kernel,
            target: "sm_90a".into(),
            producer: "nvrtc 12.9.86".into(),
            body: Digest([3; 32]),
            label: label.into(),
        }
    }

    /// A generator of small numbers, so that each run sees the same cases.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % end as u64) as usize
        }

        fn text(&mut self) -> String {
            let alphabet = ['a', '0', '_', 'é', '\0', '\n', '𝄞'];
            (0..self.below(40)).map(|_| alphabet[self.below(alphabet.len())]).collect()
        }

        fn envelope(&mut self) -> (ArtifactKey, Vec<u8>) {
            let kind = [ArtifactKind::Kernel, ArtifactKind::Algorithm][self.below(2)];
            let body = Digest(std::array::from_fn(|_| self.below(256) as u8));
            let (target, producer, label) = (self.text(), self.text(), self.text());
            let payload = (0..self.below(3000)).map(|_| self.below(256) as u8).collect();
            (ArtifactKey { kind, target, producer, body, label }, payload)
        }
    }

    #[test]
    fn the_form_is_pinned() {
        let bytes = encode(&key("l"), b"payload").unwrap();
        assert_eq!(&bytes[..16], b"calrart\n\x01\0\x01\0\x78\0\0\0");
        assert_eq!(bytes.len(), 0x78 + 7);
        let digest = Digest::of(&bytes).to_string();
        assert_eq!(digest, "027971f6a3e9837ed757cba8b70c29bdd23281f9c58f16b3b9915129d14e05e0");
    }

    #[test]
    fn what_was_written_is_read() {
        let mut numbers = Numbers(1);
        for _ in 0..300 {
            let (key, payload) = numbers.envelope();
            let bytes = encode(&key, &payload).unwrap();
            let read = decode(&bytes).unwrap();
            assert_eq!((&read.key, read.payload), (&key, payload.as_slice()));
            assert_eq!(read.key.label, key.label);
            assert_eq!(read.key.digest(), key.digest());
        }
    }

    /// Whatever happens to the bytes, they are refused or say what they said.
    #[test]
    fn changed_bytes_are_refused() {
        let mut numbers = Numbers(2);
        for _ in 0..2000 {
            let (key, payload) = numbers.envelope();
            let whole = encode(&key, &payload).unwrap();
            let mut bytes = whole.clone();
            let at = numbers.below(bytes.len());
            match numbers.below(5) {
                0 => bytes[at] ^= 1 << numbers.below(8),
                1 => bytes.truncate(at),
                2 => bytes.insert(at, numbers.below(256) as u8),
                3 => drop(bytes.remove(at)),
                _ => {
                    let from = numbers.below(bytes.len());
                    let len = numbers.below(64).min(bytes.len() - at.max(from));
                    bytes.copy_within(from..from + len, at);
                }
            }
            assert_eq!(decode(&bytes).is_ok(), bytes == whole, "{key:?}");
        }
    }

    #[test]
    fn every_bit_counts() {
        let whole = encode(&key("label"), b"some code").unwrap();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let flaw = decode(&bytes).unwrap_err();
                let want_stale = (8..10).contains(&at);
                assert_eq!(matches!(flaw, Flaw::Format { .. }), want_stale, "{at}: {flaw}");
                assert_eq!(matches!(flaw, Flaw::Magic), at < 8, "{at}: {flaw}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_entry_are_refused() {
        let mut numbers = Numbers(3);
        for _ in 0..2000 {
            let mut bytes: Vec<u8> =
                (0..numbers.below(200)).map(|_| numbers.below(256) as u8).collect();
            if numbers.below(2) == 0 {
                let start = [MAGIC.as_slice(), &FORMAT.to_le_bytes()].concat();
                bytes.splice(0..0, start);
            }
            assert!(decode(&bytes).is_err());
        }
    }

    #[test]
    fn long_texts_are_cut_or_not_kept() {
        let label = "é".repeat(TEXT_LEN_MAX);
        let bytes = encode(&key(&label), b"").unwrap();
        assert_eq!(decode(&bytes).unwrap().key.label.len(), TEXT_LEN_MAX);
        let target = "x".repeat(TEXT_LEN_MAX + 1);
        assert_eq!(encode(&ArtifactKey { target, ..key("") }, b""), None);
    }
}
