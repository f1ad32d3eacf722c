//! Canonical bytes: the one way in which keys are written.
//!
//! Every field is length-prefixed or of fixed size and little-endian, so that two different
//! things never share their bytes.

/// A key under construction.
#[derive(Clone, Debug)]
pub struct Canonical(Vec<u8>);

impl Canonical {
    /// Starts the bytes of a `kind` of thing, in a numbered format.
    pub fn new(kind: &str, format: u16) -> Self {
        let mut out = Self(Vec::new());
        out.text(kind);
        out.0.extend(format.to_le_bytes());
        out
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    /// A 32-bit number.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A 64-bit number.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A float, by its bits.
    pub fn f64(&mut self, value: f64) -> &mut Self {
        self.0.extend(value.to_bits().to_le_bytes());
        self
    }

    /// A number of things that follow.
    pub fn count(&mut self, count: usize) -> &mut Self {
        self.i64(count as i64)
    }

    /// Text with its length.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Bytes with their length.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len());
        self.0.extend(bytes);
        self
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// BLAKE3 of canonical bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The first eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.0[..4].iter().map(|it| format!("{it:02x}")).collect()
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|it| write!(f, "{it:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.short())
    }
}

#[test]
fn neighbours_do_not_run_together() {
    let (mut a, mut b) = (Canonical::new("t", 1), Canonical::new("t", 1));
    a.text("ab").text("c");
    b.text("a").text("bc");
    assert_ne!(a.finish(), b.finish());
}
