//! A CLIP vision tower on a device: a program for each number of images, made when first needed.

use std::collections::HashMap;
use std::sync::Arc;

use calor_ir::CheckedGraph;
use calor_runtime::{Build, Input, LaneId, ProgramId, ProgramSpec, WeightSource};
use calor_weights::VisionConfig;

use crate::embedding::cosine;
use crate::encoder::image_graph;
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::precision::InferencePrecision;
use crate::programs::Programs;
use crate::tower::{RULE, device_error, graph_error};

/// A CLIP vision tower on a device.
pub struct ImageTower {
    label: String,
    config: VisionConfig,
    projection_len: Option<usize>,
    normalize: bool,
    precision: InferencePrecision,
    source: Arc<dyn WeightSource>,
    lane: LaneId,
    programs: HashMap<usize, (ProgramId, usize, usize)>,
    patches: Vec<f32>,
}

/// Most images in one program run.
const IMAGE_COUNT_MAX: usize = 8;

impl ImageTower {
    /// A tower without any program yet.
    ///
    /// # Errors
    /// [`EmbeddingError::PrecisionRefused`] for a precision that the model does not run in.
    pub fn new(
        label: &str,
        config: VisionConfig,
        projection_len: Option<usize>,
        normalize: bool,
        precision: InferencePrecision,
        source: Arc<dyn WeightSource>,
        lane: LaneId,
    ) -> EmbeddingResult<Self> {
        precision.check_model(label, config.encoder.family)?;
        Ok(Self {
            label: label.to_owned(),
            precision,
            config,
            projection_len,
            normalize,
            source,
            lane,
            programs: HashMap::new(),
            patches: Vec::new(),
        })
    }

    /// The tower's configuration.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Its programs.
    pub(crate) fn programs(&self) -> impl Iterator<Item = ProgramId> {
        self.programs.values().map(|(id, ..)| *id)
    }

    /// Removes every program; the next run builds them anew.
    ///
    /// # Errors
    /// What the device says.
    pub fn release(&mut self, programs: &mut Programs) -> EmbeddingResult<()> {
        if self.programs.is_empty() {
            return Ok(());
        }
        let build = programs.to_build(|| self.label.clone())?;
        let mut programs = self.programs.drain();
        programs.try_for_each(|(_, (id, ..))| build.remove(id).map_err(device_error))
    }

    /// One vector for each image.
    ///
    /// Shapes: each of `images` is `[channels, side, side]`, normalised.
    ///
    /// # Errors
    /// [`EmbeddingError::DimensionMismatch`] for pixels of another size, and what the device
    /// says.
    pub fn run(
        &mut self,
        programs: &mut Programs,
        images: &[&[f32]],
    ) -> EmbeddingResult<Vec<Vec<f32>>> {
        let mut out = Vec::with_capacity(images.len());
        for chunk in images.chunks(IMAGE_COUNT_MAX) {
            out.extend(self.run_chunk(programs, chunk)?);
        }
        Ok(out)
    }

    fn run_chunk(
        &mut self,
        programs: &mut Programs,
        images: &[&[f32]],
    ) -> EmbeddingResult<Vec<Vec<f32>>> {
        let count = images.len().next_power_of_two();
        self.ensure(programs, count)?;
        let (id, input, output) = self.programs[&count];
        let side = self.config.image_len;
        let element_count = self.config.channel_count * side * side;
        self.patches.clear();
        for image in images {
            if image.len() != element_count {
                return Err(EmbeddingError::DimensionMismatch {
                    what: "an image",
                    want_len: element_count,
                    got_len: image.len(),
                });
            }
            unfold(image, &self.config, &mut self.patches);
        }
        self.patches.resize(count * element_count, 0.0);
        let bytes = bytemuck::cast_slice(&self.patches);
        programs.run(id, &[Input { part: 0, slot: input, bytes }], &[])?;
        let row_len = programs.plan(id).buffers[output].ty.shape.last();
        let mut rows = vec![0.0_f32; images.len() * row_len];
        programs.read(id, 0, output, &mut rows)?;
        Ok(rows.chunks_exact(row_len).map(<[f32]>::to_vec).collect())
    }

    /// Runs every count of images once: one picture, which must give the same in each.
    pub(crate) fn check(&mut self, programs: &mut Programs) -> EmbeddingResult<()> {
        let VisionConfig { channel_count, image_len, .. } = self.config;
        let pixel_count = channel_count * image_len * image_len;
        let pixels: Vec<f32> = (0..pixel_count).map(|it| (it % 255) as f32 / 127.5 - 1.0).collect();
        let want = self.precision.cosine_min();
        let mut one: Option<Vec<f32>> = None;
        for count in Self::counts() {
            let vectors = self.run(programs, &vec![pixels.as_slice(); count])?;
            let Some(last) = vectors.into_iter().last() else { continue };
            let Some(wanted) = &one else {
                one = Some(last);
                continue;
            };
            let cosine = cosine(&last, wanted);
            if cosine < want || !last.iter().all(|it| it.is_finite()) {
                let model = self.label.clone();
                return Err(EmbeddingError::WarmupMismatch {
                    model,
                    token_count: count,
                    cosine,
                    want,
                });
            }
        }
        Ok(())
    }

    /// The counts of images that have programs, rising.
    pub(crate) fn counts() -> impl Iterator<Item = usize> {
        (0..).map(|it| 1 << it).take_while(|it| *it <= IMAGE_COUNT_MAX)
    }

    /// The graph for a number of images.
    pub(crate) fn graph(&self, count: usize) -> EmbeddingResult<CheckedGraph> {
        let Self { config, projection_len, normalize, precision, .. } = self;
        image_graph(config, *projection_len, count, *normalize, *precision).map_err(graph_error)
    }

    /// What the program for a number of images is to be.
    pub(crate) fn program_spec<'a>(
        &'a self,
        count: usize,
        graph: &'a CheckedGraph,
    ) -> ProgramSpec<'a> {
        ProgramSpec {
            label: &self.label,
            token_count_max: count as u32,
            sequence_count_max: count as u32,
            lane: self.lane,
            graph,
            source: Some(self.source.clone()),
            choices: &RULE,
            channels: &[],
        }
    }

    /// Takes over the program for a number of images.
    pub(crate) fn add(
        &mut self,
        build: &Build,
        count: usize,
        id: ProgramId,
    ) -> EmbeddingResult<()> {
        let plan = build.plan(id);
        let missing = || EmbeddingError::InternalError { place: "image plan", source: None };
        let input = plan.input_index("patches").ok_or_else(missing)?;
        let output = plan.output_index("pooled").ok_or_else(missing)?;
        self.programs.insert(count, (id, input, output));
        Ok(())
    }

    fn ensure(&mut self, programs: &mut Programs, count: usize) -> EmbeddingResult<()> {
        if self.programs.contains_key(&count) {
            return Ok(());
        }
        let label = &self.label;
        let build = programs.to_build(|| format!("{label} for {count} images"))?;
        let graph = self.graph(count)?;
        let id = build.program(&self.program_spec(count, &graph)).map_err(device_error)?;
        self.add(build, count, id)
    }
}

impl std::fmt::Debug for ImageTower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageTower").field("label", &self.label).finish_non_exhaustive()
    }
}

/// Patches in row-major order, each with its channels one after another: what a convolution with
/// stride equal to its kernel multiplies.
fn unfold(image: &[f32], config: &VisionConfig, out: &mut Vec<f32>) {
    let (side, patch) = (config.image_len, config.patch_len);
    for top in (0..side / patch * patch).step_by(patch) {
        for left in (0..side / patch * patch).step_by(patch) {
            for channel in 0..config.channel_count {
                for y in top..top + patch {
                    let start = (channel * side + y) * side + left;
                    out.extend_from_slice(&image[start..start + patch]);
                }
            }
        }
    }
}
