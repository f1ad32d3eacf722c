//! Results in a file between two runs: written whole, read whole, and refused when damaged.
//!
//! Magic, digest of what the models are, length of the payload, payload, BLAKE3 of all before.
//! The payload is one entry behind the other, the least recently used first: key, length, result.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::{ResultKey, ResultsCache};
use crate::embedding::{
    ConcatenatedEmbedding, FusedEmbedding, MissingModels, ModelEmbedding, Reader, ResultFlags,
    SlotRule, SparseVector, TokenMatrix, put_f32,
};
use crate::error::{EmbeddingError, EmbeddingResult, FormatFault};
use crate::model_id::ModelId;
use crate::pipeline::PipelineOutput;

/// The last byte is the version.
const MAGIC: [u8; 8] = *b"CALRSLT\x01";
const DIGEST_LEN: usize = 32;

impl ResultsCache {
    /// Writes every result that is held, beside its place and renamed; how many.
    ///
    /// # Errors
    /// [`EmbeddingError::IoError`] for a place that cannot be written; what was there stays.
    pub fn save(&self, path: &Path, revision: &[u8; 32]) -> EmbeddingResult<usize> {
        let mut payload = Vec::new();
        let mut count = 0;
        for (key, output) in self.in_order() {
            if let Some(bytes) = encoded(&output) {
                payload.extend(key.0);
                payload.extend((bytes.len() as u32).to_le_bytes());
                payload.extend(bytes);
                count += 1;
            }
        }
        let mut all = Vec::with_capacity(payload.len() + 128);
        all.extend(MAGIC);
        all.extend(revision);
        all.extend((payload.len() as u64).to_le_bytes());
        all.extend(payload);
        let digest = blake3::hash(&all);
        all.extend(digest.as_bytes());
        let failed = |source| EmbeddingError::IoError { path: path.into(), source };
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.part", std::process::id()));
        let beside = std::path::PathBuf::from(beside);
        let written = std::fs::File::create(&beside)
            .and_then(|mut file| file.write_all(&all).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&beside, path));
        if written.is_err() {
            // What is left of it helps nobody.
            let _ = std::fs::remove_file(&beside);
        }
        written.map_err(failed)?;
        Ok(count)
    }

    /// Takes over what [`ResultsCache::save`] wrote; how many results. None where there is no file
    /// or it is of other models.
    ///
    /// # Errors
    /// [`EmbeddingError::SerializationError`] for a file that is damaged anywhere: nothing of it is
    /// taken. [`EmbeddingError::IoError`] for one that cannot be read.
    pub fn load(&self, path: &Path, revision: &[u8; 32]) -> EmbeddingResult<usize> {
        let all = match std::fs::read(path) {
            Ok(all) => all,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(source) => return Err(EmbeddingError::IoError { path: path.into(), source }),
        };
        let damaged = |fault| {
            let what = format!("results in {}", path.display());
            EmbeddingError::SerializationError { what, fault }
        };
        let Some((signed, digest)) = all.split_last_chunk::<DIGEST_LEN>() else {
            return Err(damaged(FormatFault::Header));
        };
        if blake3::hash(signed).as_bytes() != digest {
            return Err(damaged(FormatFault::Digest));
        }
        let mut reader = reader_of(signed);
        if reader.array::<8>()? != MAGIC {
            return Err(damaged(FormatFault::Magic));
        }
        if reader.array::<32>()? != *revision {
            return Ok(0);
        }
        let (want_bytes, got_bytes) =
            (u64::from_le_bytes(reader.array()?), reader.rest.len() as u64);
        if want_bytes != got_bytes {
            return Err(damaged(FormatFault::Length { want_bytes, got_bytes }));
        }
        let mut entries = Vec::new();
        while !reader.rest.is_empty() {
            let key = ResultKey(reader.array()?);
            let len = u32::from_le_bytes(reader.array()?) as usize;
            entries.push((key, decoded(reader.bytes(len)?)?));
        }
        let count = entries.len();
        for (key, output) in entries {
            self.insert(key, Arc::new(output));
        }
        Ok(count)
    }
}

/// A result as bytes; none for one that no request can have made.
fn encoded(output: &PipelineOutput) -> Option<Vec<u8>> {
    let PipelineOutput { embeddings, fused, sparse, tokens, flags, cut: _ } = output;
    let mut out = Vec::new();
    out.push(flags.to_bits());
    out.extend(embeddings.content_hash().to_le_bytes());
    out.push(u8::from(embeddings.as_slice().is_some()));
    out.push(embeddings.filled_count() as u8);
    for it in ModelId::iter().filter_map(|it| embeddings.get(it)) {
        let ModelEmbedding { model_id, vector, latency_us, attention_weights, is_projected } = it;
        if attention_weights.is_some() {
            return None;
        }
        out.push(model_id.index() as u8);
        out.push(u8::from(*is_projected));
        out.extend(latency_us.to_le_bytes());
        put_list(&mut out, vector);
    }
    let fused = fused.as_ref().map(FusedEmbedding::to_bytes).transpose().ok()?.unwrap_or_default();
    out.extend((fused.len() as u32).to_le_bytes());
    out.extend(fused);
    out.push(u8::from(sparse.is_some()));
    if let Some(it) = sparse {
        out.extend((it.len() as u32).to_le_bytes());
        it.indices().iter().for_each(|it| out.extend(it.to_le_bytes()));
        put_f32(&mut out, it.values());
    }
    out.push(u8::from(tokens.is_some()));
    if let Some(it) = tokens {
        out.extend((it.dimension() as u32).to_le_bytes());
        put_list(&mut out, it.as_slice());
    }
    Some(out)
}

fn put_list(out: &mut Vec<u8>, values: &[f32]) {
    out.extend((values.len() as u32).to_le_bytes());
    put_f32(out, values);
}

fn decoded(bytes: &[u8]) -> EmbeddingResult<PipelineOutput> {
    let impossible = |name| EmbeddingError::SerializationError {
        what: "a kept result".into(),
        fault: FormatFault::Field { name },
    };
    let mut reader = reader_of(bytes);
    let [flags] = reader.array()?;
    let flags = ResultFlags::from_bits(flags).ok_or_else(|| impossible("flags"))?;
    let mut embeddings = ConcatenatedEmbedding::new(u64::from_le_bytes(reader.array()?));
    let [is_whole, count] = reader.array()?;
    for _ in 0..count {
        let [index, is_projected] = reader.array()?;
        let model_id = ModelId::ALL.get(usize::from(index)).copied();
        let model_id = model_id.ok_or_else(|| impossible("model"))?;
        let latency_us = u64::from_le_bytes(reader.array()?);
        let vector = list(&mut reader)?;
        let is_projected = is_projected == 1;
        let attention_weights = None;
        embeddings.set(ModelEmbedding {
            model_id,
            vector,
            latency_us,
            attention_weights,
            is_projected,
        })?;
    }
    if is_whole == 1 {
        embeddings.concatenate(&SlotRule::UNIT, MissingModels::AllowPartial)?;
    }
    let len = u32::from_le_bytes(reader.array()?) as usize;
    let fused = (len != 0).then(|| FusedEmbedding::from_bytes(reader.bytes(len)?)).transpose()?;
    let sparse = match reader.array()? {
        [0] => None,
        [_] => {
            let len = u32::from_le_bytes(reader.array()?) as usize;
            let indices = reader.bytes(4 * len)?.as_chunks::<4>().0;
            let indices = indices.iter().map(|it| u32::from_le_bytes(*it)).collect();
            Some(SparseVector::new(indices, reader.f32s(len)?)?)
        }
    };
    let tokens = match reader.array()? {
        [0] => None,
        [_] => {
            let dim = u32::from_le_bytes(reader.array()?) as usize;
            Some(TokenMatrix::new(list(&mut reader)?, dim)?)
        }
    };
    match reader.rest {
        [] => Ok(PipelineOutput { embeddings, fused, sparse, tokens, cut: None, flags }),
        _ => Err(impossible("length")),
    }
}

fn reader_of(bytes: &[u8]) -> Reader<'_> {
    Reader { rest: bytes, total_bytes: bytes.len() as u64 }
}

fn list(reader: &mut Reader<'_>) -> EmbeddingResult<Vec<f32>> {
    let len = u32::from_le_bytes(reader.array()?) as usize;
    reader.f32s(len)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use calor_telemetry::Counters;

    use super::*;
    use crate::input::ModelInput;
    use crate::results::Asked;

    fn vector(len: usize, salt: u32) -> Vec<f32> {
        let mut out: Vec<f32> = (0..len as u32).map(|it| ((it * 37 + salt) % 19) as f32).collect();
        crate::embedding::normalize_l2(&mut out);
        out
    }

    fn output(salt: u32) -> PipelineOutput {
        let mut embeddings = ConcatenatedEmbedding::new(u64::from(salt));
        for model in ModelId::ALL {
            let vector = vector(model.slot_dimension(), salt + model.index() as u32);
            embeddings.set(ModelEmbedding::projected(model, vector, 3).unwrap()).unwrap();
        }
        embeddings.concatenate(&SlotRule::UNIT, MissingModels::Refuse).unwrap();
        let flags = ResultFlags { truncated: true, ..ResultFlags::default() };
        let fused = FusedEmbedding {
            vector: vector(crate::FUSED_LEN, salt),
            expert_weights: [0.125; 8],
            selected_experts: vec![1, 2, 3, 4],
            pipeline_latency_us: 9,
            content_hash: u64::from(salt),
            aux_data: None,
            flags,
        };
        let sparse = SparseVector::new(vec![3, 8], vec![0.5, 1.5]).unwrap();
        let tokens = TokenMatrix::new(vector(256, salt), 128).unwrap();
        PipelineOutput {
            embeddings,
            fused: Some(fused),
            sparse: Some(sparse),
            tokens: Some(tokens),
            cut: None,
            flags,
        }
    }

    fn key(text: &str) -> ResultKey {
        let models = BTreeSet::from([ModelId::Semantic]);
        let asked = Asked {
            models: &models,
            is_fused: false,
            own_forms: true,
            revision: b"r",
            reference_s: None,
        };
        ResultKey::new(&ModelInput::text(text).unwrap(), &asked).unwrap()
    }

    fn cache(bytes_max: u64) -> ResultsCache {
        ResultsCache::new(bytes_max, Arc::new(Counters::new()))
    }

    #[test]
    fn what_was_kept_comes_back_bit_for_bit_and_within_the_bound() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("results");
        let kept = cache(u64::MAX);
        assert_eq!(kept.load(&path, &[1; 32]).unwrap(), 0, "there is no file yet");
        for (salt, text) in ["a", "b", "c"].into_iter().enumerate() {
            kept.insert(key(text), Arc::new(output(salt as u32)));
        }
        kept.get(&key("a"));
        assert_eq!(kept.save(&path, &[1; 32]).unwrap(), 3);
        let again = cache(u64::MAX);
        assert_eq!(again.load(&path, &[1; 32]).unwrap(), 3);
        for text in ["a", "b", "c"] {
            assert_eq!(again.get(&key(text)), kept.get(&key(text)), "{text}");
        }
        assert_eq!(again.bytes(), kept.bytes());
        // The most recently used stay where there is room for two.
        let small = cache(2 * kept.bytes() / 3 + 1);
        small.load(&path, &[1; 32]).unwrap();
        let held = ["a", "b", "c"].map(|it| small.get(&key(it)).is_some());
        assert_eq!(held, [true, false, true]);
        let other = cache(u64::MAX);
        assert_eq!(other.load(&path, &[2; 32]).unwrap(), 0, "other models");
        assert!(other.is_empty());
    }

    #[test]
    fn a_damaged_file_is_refused_wherever_it_is_damaged() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("results");
        let kept = cache(u64::MAX);
        kept.insert(key("a"), Arc::new(output(1)));
        kept.save(&path, &[1; 32]).unwrap();
        let good = std::fs::read(&path).unwrap();
        let step = good.len() / 97;
        for at in (0..good.len()).step_by(step) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(cache(u64::MAX).load(&path, &[1; 32]).is_err(), "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(cache(u64::MAX).load(&path, &[1; 32]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_keeps_what_was_there() {
        let dir = tempfile::TempDir::new().unwrap();
        let kept = cache(u64::MAX);
        assert!(kept.save(&dir.path().join("no/such/folder"), &[1; 32]).is_err());
        // A folder in the place of the file cannot be replaced, and no part is left behind.
        let place = dir.path().join("results");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("inside"), "x").unwrap();
        assert!(kept.save(&place, &[1; 32]).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
