//! Inputs that nobody wrote: the same for the same seed, model and step, and different otherwise.

use image::{ImageBuffer, ImageFormat as Encoding, Rgb};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::embedding::{ConcatenatedEmbedding, ModelEmbedding, normalize_l2};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::input::{ImageFormat, InputKind, ModelInput};
use crate::model_id::ModelId;
use crate::tokenizer::TextTokenizer;

/// Side of a synthetic picture: enough to be scaled.
const IMAGE_LEN: u32 = 48;
/// 2000-01-01T00:00:00Z, from which times of texts are counted.
const EPOCH_S: i64 = 946_684_800;

/// Synthetic data generator for warm-up.
#[derive(Clone, Debug)]
pub struct SyntheticDataGenerator {
    text_samples: Vec<String>,
    code_samples: Vec<String>,
    seed: u64,
}

impl SyntheticDataGenerator {
    /// Sentences that texts are made of.
    pub const SAMPLE_TEXTS: &'static [&'static str] = &[
        "The quick brown fox jumps over the lazy dog.",
        "Machine learning models require careful optimization.",
        "Distributed systems face challenges with consistency.",
        "Natural language processing has advanced significantly.",
        "Heat flows from warm bodies to cold ones until both are alike.",
        "Die Wärme eines Körpers ist die Bewegung seiner Teile.",
        "La chaleur ne passe pas d'elle-même d'un corps froid à un corps chaud.",
        "熱は高い所から低い所へ流れる。",
    ];

    /// Pieces of programs.
    pub const SAMPLE_CODE: &'static [&'static str] = &[
        "fn main() { println!(\"Hello, world!\"); }",
        "class Example { constructor() { this.value = 0; } }",
        "def process(data): return [x * 2 for x in data]",
        "int main(void) { return 0; }",
        "SELECT name FROM models WHERE ready = 1;",
    ];

    /// A generator with samples of its own.
    pub fn new(seed: u64) -> Self {
        let owned = |all: &[&str]| all.iter().map(|it| (*it).to_owned()).collect();
        Self {
            text_samples: owned(Self::SAMPLE_TEXTS),
            code_samples: owned(Self::SAMPLE_CODE),
            seed,
        }
    }

    /// The generator of one step of one model: its inputs are its own.
    #[must_use]
    pub fn at(&self, model_id: ModelId, step: usize) -> Self {
        let mix = (model_id.index() as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mix = mix ^ (step as u64 + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self { seed: self.seed.rotate_left(17) ^ mix, ..self.clone() }
    }

    /// A text of as many words as a number within `min_tokens..=max_tokens`, at least one; the
    /// order of the two does not matter.
    pub fn generate_text(&self, min_tokens: usize, max_tokens: usize) -> String {
        let (low, high) = (min_tokens.min(max_tokens).max(1), min_tokens.max(max_tokens).max(1));
        let mut random = self.random();
        let target = low + below(&mut random, high - low + 1);
        let mut words: Vec<&str> = Vec::with_capacity(target);
        while words.len() < target {
            let sample = &self.text_samples[below(&mut random, self.text_samples.len())];
            words.extend(sample.split_whitespace().take(target - words.len()));
        }
        words.join(" ")
    }

    /// A text of exactly `token_count` tokens of a tokenizer, those included that it adds.
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] where the added tokens leave no room, and what the
    /// tokenizer says.
    pub fn generate_exact(
        &self,
        tokenizer: &TextTokenizer,
        token_count: usize,
    ) -> EmbeddingResult<String> {
        let frame = tokenizer.opening().len() + tokenizer.closing().len();
        let refused = || EmbeddingError::ConfigError {
            field: "token_count",
            value: token_count.to_string(),
            want: "no text has so few tokens",
        };
        let wanted = token_count.checked_sub(frame).filter(|it| 0 < *it).ok_or_else(refused)?;
        let long = self.generate_text(2 * wanted, 2 * wanted);
        let pieces = tokenizer.pieces(&long, false)?;
        // Cut behind the wanted token; a cut may merge into fewer, and then one letter more or
        // less is looked for around it.
        let ends = pieces.iter().filter_map(|it| it.range.as_ref()).map(|it| it.end);
        let near = ends.skip(wanted.saturating_sub(4)).take(12);
        for end in near.filter(|it| long.is_char_boundary(*it)) {
            if tokenizer.pieces(&long[..end], false)?.len() == wanted {
                return Ok(long[..end].to_owned());
            }
        }
        Err(refused())
    }

    /// So many lines of a program, at least one, with a comment that names the language.
    pub fn generate_code(&self, language: &str, lines: usize) -> String {
        let mut random = self.random();
        let mut out = vec![format!("// {language} {}", below(&mut random, 1_000_000))];
        while out.len() < lines {
            out.push(self.code_samples[below(&mut random, self.code_samples.len())].clone());
        }
        out.join("\n")
    }

    /// A picture in PNG.
    ///
    /// # Errors
    /// [`EmbeddingError::InternalError`] when it cannot be written.
    pub fn generate_image(&self) -> EmbeddingResult<ModelInput> {
        let mut random = self.random();
        let base = [0, 1, 2].map(|_| random.next_u32() as u8);
        let picture = ImageBuffer::from_fn(IMAGE_LEN, IMAGE_LEN, |x, y| {
            let step = [x as u8, y as u8, (x ^ y) as u8];
            Rgb([0, 1, 2].map(|it| base[it].wrapping_add(step[it].wrapping_mul(5))))
        });
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, Encoding::Png).map_err(|source| {
            EmbeddingError::InternalError {
                place: "a synthetic picture",
                source: Some(Box::new(source)),
            }
        })?;
        ModelInput::image(bytes.into_inner(), ImageFormat::Png)
    }

    /// A batch for a model: texts of many lengths with times of their own, code where the model
    /// takes it, and every fourth a picture where it takes those.
    ///
    /// # Errors
    /// As [`SyntheticDataGenerator::generate_image`].
    pub fn generate_inputs(
        &self,
        model_id: ModelId,
        batch_size: usize,
    ) -> EmbeddingResult<Vec<ModelInput>> {
        self.inputs_of(model_id, model_id.input_kinds(), batch_size)
    }

    /// As [`SyntheticDataGenerator::generate_inputs`], of these kinds alone.
    pub(super) fn inputs_of(
        &self,
        model_id: ModelId,
        kinds: &[InputKind],
        batch_size: usize,
    ) -> EmbeddingResult<Vec<ModelInput>> {
        let takes = |kind| kinds.contains(&kind);
        let input = |index: usize| {
            let own = self.at(model_id, index);
            match index % 4 {
                1 if takes(InputKind::Code) => {
                    ModelInput::code(own.generate_code("rust", 1 + index % 7), "rust")
                }
                3 if takes(InputKind::Image) => own.generate_image(),
                _ => {
                    let epoch_s = EPOCH_S + i64::from(own.random().next_u32());
                    let role = if index % 3 == 2 { "query" } else { "passage" };
                    let instruction = format!("role:{role}; epoch:{epoch_s}");
                    let text = own.generate_text(4, 40);
                    ModelInput::text_with_instruction(text, Some(instruction))
                }
            }
        };
        (0..batch_size).map(input).collect()
    }

    /// Twelve slots of length 1, as production has them, in order.
    ///
    /// # Errors
    /// None for the sizes of the models' own table.
    pub fn generate_concatenated_embedding(&self) -> EmbeddingResult<ConcatenatedEmbedding> {
        let slot = |model_id: ModelId| {
            let mut random = self.at(model_id, 0).random();
            let number = |_| (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
            let mut vector: Vec<f32> = (0..model_id.slot_dimension()).map(number).collect();
            normalize_l2(&mut vector);
            ModelEmbedding::projected(model_id, vector, 0)
        };
        let slots = ModelId::iter().map(slot).collect::<EmbeddingResult<_>>()?;
        ConcatenatedEmbedding::from_model_embeddings(slots)
    }

    fn random(&self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.seed)
    }
}

fn below(random: &mut ChaCha8Rng, count: usize) -> usize {
    (random.next_u64() % count.max(1) as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::embedding::l2_norm;

    #[test]
    fn texts_repeat_for_a_seed_and_differ_for_another() {
        let one = SyntheticDataGenerator::new(42);
        assert_eq!(one.generate_text(5, 9), SyntheticDataGenerator::new(42).generate_text(5, 9));
        assert_ne!(one.generate_text(9, 9), SyntheticDataGenerator::new(43).generate_text(9, 9));
        for count in [1, 2, 7, 300] {
            assert_eq!(one.generate_text(count, count).split_whitespace().count(), count);
        }
        let words = one.generate_text(9, 5).split_whitespace().count();
        assert!((5..=9).contains(&words));
        assert_eq!(one.generate_text(0, 0).split_whitespace().count(), 1);
    }

    #[test]
    fn every_model_and_step_has_inputs_of_its_own() {
        let base = SyntheticDataGenerator::new(42);
        let mut seen = BTreeSet::new();
        for model_id in ModelId::iter() {
            for step in 0..8 {
                let inputs = base.at(model_id, step).generate_inputs(model_id, 8).unwrap();
                let again = base.at(model_id, step).generate_inputs(model_id, 8).unwrap();
                assert_eq!(inputs, again);
                for input in inputs {
                    input.require_support(model_id).unwrap();
                    assert!(seen.insert(format!("{input:?}")), "{model_id} {step}: {input:?}");
                }
            }
        }
        let images = base.generate_inputs(ModelId::Multimodal, 8).unwrap();
        let kinds = images.iter().filter(|it| it.kind() == InputKind::Image).count();
        assert_eq!(kinds, 2);
    }

    #[test]
    fn a_text_has_exactly_the_tokens_that_were_asked_for() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
        for name in ["bert", "longformer", "clip"] {
            let file = golden.join(name).join("tokenizer.json");
            let tokenizer = TextTokenizer::from_file(&file).unwrap();
            for count in [3, 4, 16, 64, 200] {
                let text = SyntheticDataGenerator::new(1).generate_exact(&tokenizer, count);
                let got = tokenizer.pieces(&text.unwrap(), true).unwrap().len();
                assert_eq!(got, count, "{name}");
            }
            assert!(SyntheticDataGenerator::new(1).generate_exact(&tokenizer, 2).is_err());
        }
    }

    #[test]
    fn slots_are_of_length_one_and_code_has_its_lines() {
        let generator = SyntheticDataGenerator::new(7);
        let embedding = generator.generate_concatenated_embedding().unwrap();
        for model_id in ModelId::iter() {
            let slot = embedding.get_slice(model_id).unwrap();
            assert!((l2_norm(slot) - 1.0).abs() < 1e-6, "{model_id}");
        }
        assert_eq!(generator.generate_code("rust", 5).lines().count(), 5);
        assert_eq!(generator.generate_code("rust", 0).lines().count(), 1);
    }
}
