//! Warm-up of one checkpoint: all its programs are built and compared with each other, and the
//! right to build is given up.

use calor_ir::CheckedGraph;
use calor_runtime::{JoinedSpec, PartSpec};
use calor_telemetry::clock::Stopwatch;

use super::{CheckpointEmbedder, EmbedItem};
use crate::error::EmbeddingResult;
use crate::image_tower::ImageTower;
use crate::packing::{Bucket, PackItem};
use crate::pipeline::{CHECK_TEXTS, ReadyReport, check_buckets};
use crate::tower::device_error;

/// Which program a graph is of.
enum Place {
    Text(Bucket),
    Image(usize),
}

impl CheckpointEmbedder {
    /// Builds the programs of every bucket and of every count of images, runs each of the text's
    /// with the same texts, which must give the same, and seals.
    ///
    /// # Errors
    /// [`crate::EmbeddingError::GpuError`] with the bytes wanted and left when it does not fit;
    /// nothing was allocated then. [`crate::EmbeddingError::WarmupMismatch`] for a bucket that
    /// computes something else than the smallest. What the device says.
    pub fn warm(mut self) -> EmbeddingResult<(Self, ReadyReport)> {
        let watch = Stopwatch::start();
        let mut graphs: Vec<(Place, CheckedGraph)> = Vec::new();
        if let Some(tower) = &self.text {
            for bucket in tower.ladder() {
                graphs.push((Place::Text(*bucket), tower.graph(*bucket)?));
            }
        }
        if let Some(tower) = &self.image {
            for count in ImageTower::counts() {
                graphs.push((Place::Image(count), tower.graph(count)?));
            }
        }
        let graphs_ns = watch.elapsed_ns();
        let Self { programs, text, image, .. } = &mut self;
        let build = programs.to_build(|| "a checkpoint".into())?;
        let mut specs = Vec::with_capacity(graphs.len());
        for (place, graph) in &graphs {
            let spec = match place {
                Place::Text(bucket) => {
                    text.as_ref().map(|it| it.program_spec(*bucket, it.lane(), graph, &[]))
                }
                Place::Image(count) => image.as_ref().map(|it| it.program_spec(*count, graph)),
            };
            let parts: Vec<PartSpec<'_>> =
                spec.map(|spec| PartSpec { branch: 0, spec }).into_iter().collect();
            let label = parts.first().map_or("", |it| it.spec.label);
            specs.push(JoinedSpec { label, parts });
        }
        let ids = build.all_joined(&specs).map_err(device_error)?;
        drop(specs);
        let mut step_count = 0;
        for ((place, graph), id) in graphs.iter().zip(&ids) {
            step_count += build.plan(*id).steps.len();
            match place {
                Place::Text(bucket) => {
                    text.iter_mut().try_for_each(|it| it.add(build, graph, *bucket, *id))?;
                }
                Place::Image(count) => {
                    image.iter_mut().try_for_each(|it| it.add(build, *count, *id))?;
                }
            }
        }
        let Self { programs, .. } = self;
        self = Self { programs: programs.seal()?, ..self };
        let check = Stopwatch::start();
        self.check()?;
        let report = ReadyReport {
            program_count: ids.len(),
            step_count,
            graphs_ns,
            build: self.programs.times(),
            check_ns: check.elapsed_ns(),
            wall_ns: watch.elapsed_ns(),
        };
        Ok((self, report))
    }

    fn check(&mut self) -> EmbeddingResult<()> {
        let texts: Vec<EmbedItem> = match (&self.text, &self.tokenizer, &self.colbert) {
            (None, ..) => Vec::new(),
            (Some(_), None, None) => {
                let ids = |count: u32| (0..count).map(|it| it % self.vocab_count as u32).collect();
                vec![EmbedItem::Ids(ids(15)), EmbedItem::Ids(ids(4))]
            }
            (Some(_), ..) => CHECK_TEXTS.map(|it| EmbedItem::Text(it.into())).into(),
        };
        let tokens = self.tokenize(&texts).into_iter().flatten();
        let tokens = tokens.collect::<EmbeddingResult<Vec<_>>>()?;
        let items: Vec<PackItem<'_>> = tokens
            .iter()
            .map(|it| PackItem { ids: &it.ids, attended_len: it.attended_len, keep: None })
            .collect();
        let Self { programs, text, image, .. } = self;
        if let Some(tower) = text {
            check_buckets(tower, programs, &items)?;
        }
        match image {
            Some(tower) => tower.check(programs),
            None => Ok(()),
        }
    }
}
