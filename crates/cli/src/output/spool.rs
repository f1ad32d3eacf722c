//! Floats on the disk until their number is known.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::OutputError;

/// Writes elements as little-endian bytes.
pub(super) fn write_f32(out: &mut impl Write, elements: &[f32]) -> std::io::Result<()> {
    let mut buffer = [0_u8; 4096];
    for chunk in elements.chunks(buffer.len() / 4) {
        for (place, it) in buffer.as_chunks_mut::<4>().0.iter_mut().zip(chunk) {
            *place = it.to_le_bytes();
        }
        out.write_all(&buffer[..4 * chunk.len()])?;
    }
    Ok(())
}

/// A file of floats, written and then read once.
pub(super) struct Spool {
    path: PathBuf,
    out: BufWriter<File>,
}

impl Spool {
    /// An empty one at `path`.
    pub(super) fn create(path: &Path) -> Result<Self, OutputError> {
        let open = File::options().create_new(true).read(true).write(true).open(path);
        let file = open.map_err(|err| OutputError::io(path, err))?;
        Ok(Self { path: path.into(), out: BufWriter::with_capacity(1 << 18, file) })
    }

    /// Appends elements.
    pub(super) fn write(&mut self, elements: &[f32]) -> Result<(), OutputError> {
        write_f32(&mut self.out, elements).map_err(|err| OutputError::io(&self.path, err))
    }

    /// Hands all elements to `take` in order, some at a time.
    pub(super) fn read(
        self,
        take: &mut dyn FnMut(&[f32]) -> Result<(), OutputError>,
    ) -> Result<(), OutputError> {
        let path = self.path;
        let io = |err| OutputError::io(&path, err);
        let mut file = self.out.into_inner().map_err(|err| io(err.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut left_bytes = file.metadata().map_err(io)?.len();
        let mut input = BufReader::with_capacity(1 << 18, file);
        let mut bytes = [0_u8; 1 << 14];
        let mut elements = Vec::with_capacity(bytes.len() / 4);
        while left_bytes > 0 {
            let len = bytes.len().min(usize::try_from(left_bytes).unwrap_or(usize::MAX));
            input.read_exact(&mut bytes[..len]).map_err(io)?;
            elements.clear();
            elements
                .extend(bytes[..len].as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)));
            take(&elements)?;
            left_bytes -= len as u64;
        }
        Ok(())
    }
}
